"""`shoal pki`: the fleet's CA and certificates, as files on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoalctl.commands.command import verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.render import console

app = verb_app("Make the fleet's CA and certificates.")
issue_app = verb_app("Issue a certificate of the fleet's CA.")
app.add_typer(issue_app, name="issue")

Directory = Annotated[
    str,
    typer.Option("--dir", metavar="DIR", help="Where the CA is: ca.pem, ca-key.pem. Default: pki beside config.toml."),
]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="Where the new files go. Default: the CA's directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


@app.command("init")
def init(
    directory: Directory = "",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The CA's name.")] = "shoal fleet",
    days: Annotated[int, typer.Option("--days", metavar="N", help="How long it is good for.")] = 3650,
    overwrite: Overwrite = False,
) -> None:
    """Make a CA for a fleet. Its key stays on this machine: keep it safe, hosts and users never need it."""
    from shoal import pki

    place = _directory(directory)
    pki.create_ca(name, days).save(place / "ca.pem", place / "ca-key.pem", overwrite=overwrite)
    console.out(f"CA certificate: {place / 'ca.pem'}")
    console.out(f"CA key:         {place / 'ca-key.pem'}")


@issue_app.command("host")
def issue_host(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host's name.")],
    san: Annotated[
        list[str] | None,
        typer.Option("--san", metavar="NAME|IP", help="A name or address by which clients reach it; repeatable."),
    ] = None,
    days: Annotated[int | None, typer.Option("--days", metavar="N", help="How long it is good for.")] = None,
    directory: Directory = "",
    out: Out = "",
    overwrite: Overwrite = False,
) -> None:
    """Issue the certificate of a host's daemon: NAME.pem and NAME-key.pem."""
    from shoal import pki

    place = _directory(directory)
    target = _target(place, out, name)
    names = [part.strip() for text in san or () for part in text.split(",") if part.strip()]
    ca = pki.KeyPair.load(place / "ca.pem", place / "ca-key.pem")
    pair = pki.issue_host(ca, name, names) if days is None else pki.issue_host(ca, name, names, days)
    _save(pair, target, name, overwrite=overwrite)


@issue_app.command("user")
def issue_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="admin, operator or reader.")],
    days: Annotated[int | None, typer.Option("--days", metavar="N", help="How long it is good for.")] = None,
    directory: Directory = "",
    out: Out = "",
    overwrite: Overwrite = False,
) -> None:
    """Issue the certificate of a user, with the role that it gives on every host: NAME.pem and NAME-key.pem."""
    from shoal import pki

    place = _directory(directory)
    target = _target(place, out, name)
    ca = pki.KeyPair.load(place / "ca.pem", place / "ca-key.pem")
    pair = pki.issue_user(ca, name, role) if days is None else pki.issue_user(ca, name, role, days)
    _save(pair, target, name, overwrite=overwrite)


@app.command("show")
def show(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Certificates in PEM form.")],
) -> None:
    """Show what certificates say: names, role, dates, fingerprint."""
    from shoal import pki
    from shoal.pki.keypair import read_pem

    for at, file in enumerate(files):
        lines = pki.describe(read_pem(Path(file))).lines()
        if len(files) > 1:
            console.out(("\n" if at else "") + f"{file}:")
        for line in lines:
            console.out(console.printable(line))


def _target(place: Path, out: str, name: str) -> Path:
    """Where the files of a new certificate go. Raises UsageFault for a name whose files are those of the CA."""
    target = _directory(out) if out else place
    own = {(place / file).resolve() for file in ("ca.pem", "ca-key.pem")}
    if own & {(target / file).resolve() for file in (f"{name}.pem", f"{name}-key.pem")}:
        raise UsageFault(f"the files of {name!r} would be those of the CA itself", hint="choose another name, or --out")
    return target


def _save(pair: object, place: Path, name: str, *, overwrite: bool) -> None:
    from shoal import pki

    assert isinstance(pair, pki.KeyPair)
    certificate, key = place / f"{name}.pem", place / f"{name}-key.pem"
    pair.save(certificate, key, overwrite=overwrite)
    console.out(f"certificate: {certificate}")
    console.out(f"key:         {key}")


def _directory(given: str) -> Path:
    from shoalctl.config_file import config_path, expanded

    return expanded(given) if given else config_path().parent / "pki"
