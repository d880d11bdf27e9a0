"""What choosing the labels of a distillation brings over drawing them at random."""
