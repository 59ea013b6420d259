"""Pure model of the Dockerfile language: text -> instructions -> a plan of stages -> steps. No I/O."""
