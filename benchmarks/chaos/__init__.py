"""A fleet of several evaluation replicas whose processes are killed while a run goes on."""
