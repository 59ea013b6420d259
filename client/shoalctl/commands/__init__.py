"""One module a verb, each with a Typer application named `app`: flags in, a call of the fleet, rows out to render/."""
