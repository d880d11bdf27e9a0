"""Budgets of many runs on several evaluation services, some of which are killed."""
