"""How much of a large guard's compute a calibrated cascade spares, and whether its promise holds on unseen rows."""
