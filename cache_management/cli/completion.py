"""completion: the script that lets a shell complete commands, options and some values."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes cache-cli in SHELL; to use it:

    \b
    eval "$(cache-cli completion bash)"     in ~/.bashrc
    eval "$(cache-cli completion zsh)"      in ~/.zshrc, behind compinit
    cache-cli completion fish > ~/.config/fish/completions/cache-cli.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    from cache_management.cli.main import COMPLETE_VARIABLE, PROGRAM, cli

    kinds = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    click.echo(kinds[shell](cli, {}, PROGRAM, COMPLETE_VARIABLE).source())
