"""Complete examples on real data; they need the extra ``examples``."""
