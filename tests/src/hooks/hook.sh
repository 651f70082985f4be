#!/bin/sh
# One script for all hooks of the `command` provider: an instance is a folder, its migration mode a receiver.
set -eu
hook=$GO2CLOUD_HOOK
request=$(cat)
value() { printf '%s' "$request" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
folder=$(cd "$(dirname "$0")" && pwd)/instances/$(value InstanceId)
mkdir -p "$folder/disk"
cd "$folder"

if [ -e "fail-$hook" ]; then
    cat "fail-$hook" >&2
    exit 1
fi
while [ -e "hold-$hook" ] || [ -e "../hold-$hook" ]; do
    printf '%s' "$request" > "held-$hook"
    sleep 0.05
done
rm -f "held-$hook"

# A receiver that has ended but was not reaped yet does not run.
runs() {
    [ -s pid ] || return 1
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$(cat pid)/status" 2> /dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

end() {
    if runs; then
        kill "$(cat pid)"
        while runs; do sleep 0.02; done
    fi
}

case $hook in
enter)
    # After an `exit` that failed, the receiver of the last time may still run, with the secret of that time.
    [ "$(cat secret 2> /dev/null)" = "$(value Secret)" ] || end
    if ! runs; then
        (umask 077 && value Secret > secret)
        [ -s port ] || echo 0 > port
        rm -f ready
        setsid @INSIDE@ @RECEIVER@ --listen "@LISTEN@:$(cat port)" --json --secret-file secret \
            --into disk --journal journal > ready 2>> log < /dev/null &
        echo $! > pid
        until [ -s ready ]; do
            runs || { tail -n 1 log >&2; exit 1; }
            sleep 0.02
        done
        sed -n '1s/.*"address":"[^"]*:\([0-9]*\)".*/\1/p' ready > port
    fi
    if [ -e answer ]; then
        cat answer
    else
        printf '{"Ip":"@IP@","LanIp":"@LAN_IP@","Port":%s}' "$(cat port)"
    fi
    ;;
exit | destroy)
    end
    ;;
esac
