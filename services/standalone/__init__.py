"""The whole fleet on one machine: starts Triton and the five services, keeps them running, stops them."""
