"""Where sound comes from, and where in it somebody speaks."""
