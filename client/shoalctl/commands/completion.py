"""`shoal completion bash|zsh|fish`: scripts for the shells, which ask `shoal completion words` for candidates."""

from __future__ import annotations

from typing import Annotated

import typer

from shoalctl.commands.command import verb_app
from shoalctl.render import console

app = verb_app("Print a completion script for a shell.")

_BASH = """\
_shoal() {
    local IFS=$'\\n'
    COMPREPLY=($(shoal completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *, ]] && compopt -o nospace
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
}
# A colon belongs to a word: references and ports have them.
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
complete -F _shoal shoal
"""
_ZSH = """\
#compdef shoal
_shoal() {
    local -a found
    found=("${(@f)$(shoal completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[*]}" ]]; then compadd -Q -- "${found[@]}"; else _files; fi
}
if [[ "${funcstack[1]}" == _shoal ]]; then _shoal "$@"; else compdef _shoal shoal; fi
"""
_FISH = """\
function __shoal_words
    set -l words (commandline -opc) (commandline -ct)
    shoal completion words -- $words[2..-1] 2>/dev/null
end
complete -c shoal -a '(__shoal_words)'
"""


@app.command("bash")
def bash() -> None:
    """For ~/.bashrc: source <(shoal completion bash)"""
    console.out(_BASH, end="")


@app.command("zsh")
def zsh() -> None:
    """For ~/.zshrc, after compinit: source <(shoal completion zsh)"""
    console.out(_ZSH, end="")


@app.command("fish")
def fish() -> None:
    """For ~/.config/fish/completions/shoal.fish"""
    console.out(_FISH, end="")


@app.command("words", hidden=True, context_settings={"ignore_unknown_options": True})
def words(ctx: typer.Context, line: Annotated[list[str] | None, typer.Argument(metavar="WORD...")] = None) -> None:
    """The candidates for the last of these words."""
    from shoalctl.commands.candidates import candidates

    for word in candidates(ctx.obj, line or [""]):
        console.out(word)
