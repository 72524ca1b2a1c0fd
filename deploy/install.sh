#!/bin/sh
# Installs waylay on this node:
#
#   sh install.sh [--binary FILE | --from URL] [--sha256 HEX] [--dry-run] [options of `waylay install`]
#
# The program is the file that --binary names, else what --from leads to (URL/waylay-MACHINE with its sum in
# URL/waylay-MACHINE.sha256), else the file `waylay` beside this script. Its SHA-256 must be the one given by --sha256, or
# the one in the file of the same name that ends in .sha256; what was downloaded is never run without. All other options
# go to `waylay install`, which shows what it will do and asks: --join FILE|- , --registry HOST, --restart-runtime,
# --dry-run, --yes and more (`waylay install --help`).
set -eu

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

main() {
    binary='' from='' sum='' dry_run=''
    # What is not ours is put back at the end of the list, so that the list is `waylay install`'s after one round.
    rest=$#
    while [ "$rest" -gt 0 ]; do
        case $1 in
        --binary | --from | --sha256)
            [ "$rest" -ge 2 ] || fail "$1 needs a value"
            case $1 in
            --binary) binary=$2 ;;
            --from) from=${2%/} ;;
            --sha256) sum=$2 ;;
            esac
            shift 2
            rest=$((rest - 2))
            continue
            ;;
        --dry-run) dry_run=yes ;;
        esac
        set -- "$@" "$1"
        shift
        rest=$((rest - 1))
    done

    [ "$(uname -s)" = Linux ] || fail "waylay runs on Linux only; this is $(uname -s)"
    if [ -z "$dry_run" ] && [ "$(id -u)" != 0 ]; then
        fail 'installing changes /etc and the kernel: run it as root (with sudo); --dry-run works for everybody'
    fi

    work=$(mktemp -d) || fail 'cannot make a temporary directory'
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    program=$work/waylay
    if [ -n "$binary" ]; then
        [ -f "$binary" ] || fail "$binary is not a file; --binary names the program"
        take "$binary"
    elif [ -n "$from" ]; then
        name=waylay-$(uname -m)
        download "$from/$name" "$program"
        if [ -z "$sum" ]; then
            download "$from/$name.sha256" "$work/sum"
            read_sum "$work/sum" "$from/$name.sha256"
        fi
    else
        beside=$(dirname "$0")/waylay
        [ -f "$beside" ] || fail "there is no program beside this script; name one with --binary FILE or --from URL"
        take "$beside"
    fi
    check
    chmod 755 "$program"
    "$program" --version > /dev/null 2> "$work/why" ||
        fail "the program does not run here ($(uname -m), see which libc it needs): $(head -n 1 "$work/why")"
    # As a command of its own, so that the temporary directory goes.
    "$program" install "$@"
}

# A file that is here already.
take() {
    cp "$1" "$program" || fail "cannot read $1"
    if [ -z "$sum" ] && [ -f "$1.sha256" ]; then
        read_sum "$1.sha256" "$1.sha256"
    fi
}

download() {
    if command -v curl > /dev/null; then
        curl --fail --silent --show-error --location --output "$2" "$1" || fail "cannot download $1"
    elif command -v wget > /dev/null; then
        wget --quiet --output-document="$2" "$1" || fail "cannot download $1"
    else
        fail 'neither curl nor wget is here; download the program elsewhere and name it with --binary FILE'
    fi
}

# The first word of a file, as sha256sum writes it.
read_sum() {
    read -r sum _ < "$1" || [ -n "$sum" ] || fail "$2 is empty"
}

check() {
    if [ -z "$sum" ]; then
        printf 'install.sh: the program is not checked: no --sha256, and no .sha256 beside it\n' >&2
        return
    fi
    case $sum in
    *[!0-9a-f]*) fail "'$sum' is not a SHA-256 in lower-case hexadecimal digits" ;;
    esac
    found=$(sha256sum "$program") || fail 'cannot sum up the program'
    found=${found%% *}
    [ "$found" = "$sum" ] || fail "the program's SHA-256 is $found, but should be $sum: it is damaged, or not what you want"
}

main "$@"
