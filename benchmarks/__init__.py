"""Every figure that the README quotes comes from a command here; results/ holds them."""
