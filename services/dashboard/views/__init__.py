"""What the dashboard's pages show, each made from a fleet's own figures."""
