#!/usr/bin/env bash
# A Python that this Debian lacks, from the next one: make a Debian in a folder, and run a command there, in this
# folder and with this environment. Needs root and debootstrap; mounts end with the command.
#
#   debian_python.sh FOLDER python3.13 COMMAND...
set -euo pipefail
root=$1 python=$2
shift 2

if [[ ! -e $root/.made ]]; then
    mirror=$(apt-cache policy | sed -nE 's/^ *[0-9]+ (http[^ ]*debian) [a-z]+\/main .*/\1/p' | head -1)
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include="$python,$python-venv,make" trixie "$root" "$mirror" >"$root.log" 2>&1 ||
        exit 1 # the log says why
    touch "$root/.made"
fi

# In a chroot, / is no mount that could be private; the folder itself is made one.
propagation=private
unshare --mount --propagation private true 2>/dev/null || propagation=unchanged

recordings=${SIM_RECORDINGS:-$(dirname "$PWD")/shared/recordings}
export root recordings
exec unshare --mount --propagation $propagation bash -euo pipefail -c '
    mount --bind "$root" "$root"
    mount --make-private "$root"
    for path in /proc /dev /tmp /opt /etc/ssl /etc/hosts /etc/resolv.conf /etc/pip.conf "$HOME" "$PWD" "$recordings"; do
        [[ -e $path ]] || continue
        if [[ -d $path ]]; then mkdir -p "$root$path"; else touch "$root$path"; fi
        mount --rbind "$path" "$root$path"
    done
    exec chroot "$root" env PATH=/usr/local/bin:/usr/bin:/bin bash -c "cd \"\$0\" && exec \"\$@\"" "$PWD" "$@"
' - "$@"
