"""Language models as judges: rubrics, how they are asked, what their answers say, and what those cost."""
