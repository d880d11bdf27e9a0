"""How each family of generative guards is asked, and how its answers are read: one module a family."""
