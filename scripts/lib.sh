# shellcheck shell=bash
# What the scripts share: messages, packages, a scratch directory that leaves nothing behind, and a
# fresh ext4. Sourced, not run.

export LC_ALL=C
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # the sourcing scripts use it
target=${CARGO_TARGET_DIR:-$repo/target}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$(basename "$0"): $*"
    exit 1
}

# need_packages COMMAND:PACKAGE...: installs the packages whose command is missing, where that can be done.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        say "not root, so not installed: ${missing[*]}"
    elif ! command -v apt-get >/dev/null; then
        say "no apt-get, so not installed: ${missing[*]}"
    else
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

# need_crate COMMAND VERSION: installs the crate of that name, once; false if it cannot be had.
need_crate() {
    command -v "$1" >/dev/null && return 0
    say "installing $1 $2 (once; it stays in cargo's bin directory)"
    # Not into the project's target directory, which CI may throw away or share.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked "$1" --version "$2"
}

can_mount() { ((EUID == 0)) && [[ -c /dev/fuse ]]; }

need_root() {
    ((EUID == 0)) || die "needs root: it makes loop devices and mounts"
    [[ -c /dev/fuse ]] || die "needs /dev/fuse (modprobe fuse)"
}

# built NAME CARGO-ARGUMENTS...: builds in release mode and prints the path of the executable NAME.
built() {
    local name=$1 path
    shift
    path=$(cd "$repo" && cargo build --quiet --release --message-format=json "$@" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep -E "/$name(-[0-9a-f]+)?\$" | tail -n 1)
    [[ -n $path ]] || die "cargo built no $name"
    printf '%s\n' "$path"
}

# make_scratch NAME: sets $work to a new directory on the disk, and undoes all mounts below it and all
# loop devices made from it when the script ends, however it ends.
make_scratch() {
    work=$(mktemp -d "/var/tmp/larder-$1.XXXXXX")
    trap remove_scratch EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

remove_scratch() {
    local mount image device
    trap '' INT TERM
    cd /
    # The newest first, which is the innermost.
    while read -r mount; do
        unmount "$mount" || umount -l "$mount" || true
    done < <(awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | tac)
    for image in "$work"/*.img; do
        [[ -e $image ]] || continue
        for device in $(losetup -j "$image" | cut -d: -f1); do losetup -d "$device" || true; done
    done
    rm -rf --one-file-system "$work"
}

# unmount DIR: waits up to 10 s for those who still use it: a daemon outlives its mount for as long as it has data to write.
unmount() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        umount "$1" 2>/dev/null && return 0
        mountpoint -q "$1" || return 0
        sleep 0.1
    done
    umount "$1"
}

# make_disk NAME SIZE: a fresh ext4 on a loop device with direct I/O, at $work/NAME. Not the machine's own
# filesystem: that one may be ten times slower, which would flatter whatever is compared with it.
make_disk() {
    local image=$work/$1.img
    truncate -s "$2" "$image"
    mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$image"
    losetup --direct-io=on -f --show "$image" >"$work/$1.loop"
    mkdir "$work/$1"
    mount_disk "$1"
}

mount_disk() { mount "$(<"$work/$1.loop")" "$work/$1"; }
