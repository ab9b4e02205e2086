"""``hydra-export completion SHELL``: the script by which a shell completes our commands, options and their values.

The scripts know nothing of either: at every TAB they ask ``hydra-export __complete WORD...``, so they are never out of
date. It answers in lines, as cyclopts documents them (``App._run_complete``): one that begins with the byte 0x1f is a
directive, any other a candidate and, behind a tab, what it means. Where there is none the shell completes files.
Bash splits words at : and =, as in ``timm:NAME`` and ``--graph=shared``; its script joins them again.
"""

from __future__ import annotations

from typing import Literal

from hydra_export.commands import Result

_BASH = """\
_hydra_export() {
    local rest="${COMP_LINE#"${COMP_WORDS[0]}"}" current line index
    local -a words=()
    for ((index = 1; index <= COMP_CWORD; index++)); do
        [[ $rest == [[:space:]]* ]] && words+=("")
        words[${#words[@]}-1]+="${COMP_WORDS[index]}"
        rest="${rest#*"${COMP_WORDS[index]}"}"
    done
    current="${words[${#words[@]}-1]}"
    [[ $current == --*=* ]] && current="${current#*=}"
    COMPREPLY=()
    while IFS= read -r line; do
        line="${line%%$'\\t'*}"
        [[ -n $line && $line != $'\\x1f'* && $line == "$current"* ]] && COMPREPLY+=("$line")
    done < <("$1" __complete "${words[@]}" 2>/dev/null)
}
complete -o bashdefault -o default -F _hydra_export hydra-export
"""

_ZSH = """\
#compdef hydra-export
_hydra_export() {
    local line
    local -a candidates
    for line in "${(@f)$("${words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line && $line != $'\\x1f'* ]] || continue
        candidates+=("${${line%%$'\\t'*}//:/\\\\:}${${(M)line%%$'\\t'*}:+:${line#*$'\\t'}}")
    done
    [[ $PREFIX == --*=* ]] && compset -P '*='
    if (( $#candidates )); then
        _describe 'hydra-export' candidates
    else
        _files
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _hydra_export "$@"
else
    compdef _hydra_export hydra-export
fi
"""

_FISH = """\
function __hydra_export_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l before (string match --regex -- '^--[^=]+=' $current; or echo '')
    set -l candidates ($words[1] __complete $words[2..] "$current" 2>/dev/null | string match --regex -- '^[^\\x1f].*')
    if set -q candidates[1]
        printf '%s\\n' $before$candidates
    else
        printf '%s\\n' $before(__fish_complete_path (string replace -- "$before" '' $current))
    end
end
complete --command hydra-export --no-files --arguments '(__hydra_export_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(shell: Literal["bash", "zsh", "fish"], /) -> Result:
    """Print the script that makes a shell complete hydra-export.

    Args:
        shell: bash or zsh, where eval "$(hydra-export completion bash)" goes into ~/.bashrc or ~/.zshrc; or fish, where
            hydra-export completion fish | source goes into config.fish.
    """
    return Result({"shell": shell, "script": _SCRIPTS[shell]}, _SCRIPTS[shell])
