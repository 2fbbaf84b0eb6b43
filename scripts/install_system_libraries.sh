#!/usr/bin/env bash
# Make sure that Qt, OpenGL and a virtual display work on Linux. Does nothing where they do, or on another system.
set -u
[ "$(uname -s)" = Linux ] || exit 0

packages=(xvfb xauth libgl1 libgl1-mesa-dri libegl1 libdbus-1-3 libfontconfig1 libglib2.0-0 libxkbcommon-x11-0
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
    libxcb-xinerama0 python3-venv)
libraries=(libGL.so.1 libEGL.so.1 libdbus-1.so.3 libfontconfig.so.1 libglib-2.0.so.0 libxkbcommon-x11.so.0
    libxcb-cursor.so.0 libxcb-icccm.so.4 libxcb-image.so.0 libxcb-keysyms.so.1 libxcb-randr.so.0
    libxcb-render-util.so.0 libxcb-shape.so.0 libxcb-xinerama.so.0)

missing() {
    local known name
    known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null)
    for name in "${libraries[@]}"; do
        [[ $known == *"$name"* ]] || echo "$name"
    done
    for name in Xvfb xauth; do
        command -v "$name" >/dev/null || echo "$name"
    done
}

lacking=$(missing | tr '\n' ' ')
[ -n "$lacking" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } </dev/null >/dev/null
    then
        lacking=$(missing | tr '\n' ' ')
        [ -n "$lacking" ] || exit 0
    fi
fi
# Not fatal: the engine and the command line work without a window.
echo "napari needs ${lacking}which are missing here: install them, on Debian or Ubuntu with" \
    "'sudo apt-get install ${packages[*]}'." >&2
