"""What happens around every handled call, one behaviour per module; ``chain`` applies them in one scope."""
