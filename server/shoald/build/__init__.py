"""From a Dockerfile to an image: planner, solver, cache."""
