#!/usr/bin/env bash
# A Ray cluster on this machine: a head and N workers, each a `ray start` of its own, as they would be on N + 1 machines.
#
#   eval "$(cluster/local.sh start --workers 2)"     start it, and point this shell at it
#   raydistill submit jobs/configs/demo.yaml         run a campaign on it as a job (or `raydistill run ...`, from here)
#   cluster/local.sh add                             one more worker, which running campaigns use at once
#   cluster/local.sh status                          its processes and addresses again
#   cluster/local.sh stop                            end it: its own processes, no others
#
#   start [--workers N]         workers beside the head; default 1
#         [--cpus N]            CPUs that the head and each worker offer; default: those of the machine, shared out. Its NVIDIA GPUs are shared out among the
#                               workers (the head has them where there are none), those of CUDA_VISIBLE_DEVICES where that is set
#         [--port P]            Ray's own port; default: a free one
#         [--dashboard-port P]  the port of the dashboard and its job API; default: a free one
#         [--host ADDRESS]      the address it listens on, under which others reach this machine; default 127.0.0.1. With another one, everybody who reaches
#                               this machine and has the token runs code on it, and what passes over the network is not encrypted.
#   add   [--cpus N]            CPUs that it offers; default: as many as the others. It has no GPU: all are offered already
#   --dir DIR                   where token and process numbers are kept (for more than one cluster); default ~/.local/state/raydistill/cluster
#
# Costs: nothing but this machine.
# Reaching it: everybody needs the token in DIR/token, which only this user can read. `start` prints what a shell has to export.
# Python: .venv of this repository, or `python3`; PYTHON=... names another one. Ray has to be installed as ray[default].
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DIR=${XDG_STATE_HOME:-$HOME/.local/state}/raydistill/cluster
START_SECONDS=90
STOP_SECONDS=20
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x "$ROOT/.venv/bin/python" ] && PYTHON=$ROOT/.venv/bin/python
fi
PYTHON=$(command -v "$PYTHON") || { echo "error: no Python; name one with PYTHON=" >&2; exit 2; }
# Absolute, but no link followed: a virtual environment is found by the place of its link.
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")

say() { printf '%s\n' "$*" >&2; }
refuse() { say "error: $1"; say "  what to do: $2"; exit 2; }

number() { # option value least
    case $2 in '' | *[!0-9]*) refuse "$1 $2" "give a whole number" ;; esac
    [ "$2" -ge "$3" ] || refuse "$1 $2" "give at least $3"
}

# When a process started: a number that is given to another process later has another one.
birth() {
    if [ -r "/proc/$1/stat" ]; then
        sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
    else
        ps -o lstart= -p "$1" 2>/dev/null || true
    fi
}

# Lines of DIR/processes: role, process number, when it started.
is_running() { kill -0 "$1" 2>/dev/null && [ "$(birth "$1")" = "$2" ]; }

num_running() {
    local role pid born count=0
    if [ -f "$DIR/processes" ]; then
        while read -r role pid born; do
            if is_running "$pid" "$born"; then count=$((count + 1)); fi
        done <"$DIR/processes"
    fi
    echo "$count"
}

free_ports() { # how many
    "$PYTHON" -c '
import socket, sys
taken = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in taken: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in taken))' "$1"
}

answers() { # whether the dashboard answers to the token
    "$PYTHON" - "$1" "$DIR/token" <<'PY' 2>/dev/null
import sys, urllib.request
headers = {"Authorization": "Bearer " + open(sys.argv[2]).read().strip()}
urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/api/version", headers=headers), timeout=5)
PY
}

# `ray start`, in a session of its own, so that a Ctrl-C that is meant for something else does not reach it. Ray turns 127.0.0.1 into the machine's
# outer address, in every process anew, unless this variable tells it that machines may not join; then `ray start` lets no worker join either. So its
# children are told so, and `ray start` itself is told where it is.
RAY_START='
import os
os.setsid()
from ray._private import ray_constants, services
if os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
main()'

launch() { # role, its GPUs, then arguments of `ray start`
    local role=$1 gpus=$2 pid given=() visible=()
    shift 2
    # Ray counts all of the machine's for every process that is not told: each would be given away as often as there are processes.
    case $gpus in
    any) ;;
    # It sees them all the same: a script that was submitted, and asks for none, may use one.
    none) given=(--num-gpus 0) ;;
    *) given=(--num-gpus "$(awk -F, '{ print NF }' <<<"$gpus")") visible=("CUDA_VISIBLE_DEVICES=$gpus") ;;
    esac
    env ${visible[@]+"${visible[@]}"} "$PYTHON" -c "$RAY_START" start --block --disable-usage-stats ${given[@]+"${given[@]}"} "$@" \
        >"$DIR/$role.log" 2>&1 </dev/null &
    pid=$!
    echo "$role $pid $(birth $pid)" >>"$DIR/processes"
    local deadline=$((SECONDS + START_SECONDS))
    until grep -q 'Ray runtime started' "$DIR/$role.log"; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            say "error: the $role did not start; the end of its log:"
            tail -n 15 "$DIR/$role.log" >&2
            return 1
        fi
        sleep 0.2
    done
}

# The machine's GPUs, one a line: those of CUDA_VISIBLE_DEVICES, or all that NVIDIA's driver knows, which may take its time, or never answer.
gpus_here() {
    local within=() said
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | awk '/^-1/ { exit } NF'
    elif command -v nvidia-smi >/dev/null; then
        if command -v timeout >/dev/null; then within=(timeout 20); fi
        # What it says where it fails is no number.
        said=$(${within[@]+"${within[@]}"} nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) || said=
        awk '/^[0-9]+$/' <<<"$said"
    fi
}

# Of GPUs, one a line, those of one process of several, with commas between them: dealt out in turn. `none` where it gets none, `any` where none are known.
gpus_of() { # GPUs, which, of how many; which = 0: none of them
    if [ -z "$1" ]; then echo any; return; fi
    awk -v which="$2" -v of="$3" 'which && NR % of == which % of { dealt = dealt (dealt ? "," : "") $1 } END { print dealt ? dealt : "none" }' <<<"$1"
}

# What every `ray start` is told. Worker ports are whichever are free, so that several clusters fit on a machine.
common_options() { # CPUs
    echo --num-cpus "$1" --object-store-memory 200000000 --min-worker-port 0 --max-worker-port 0
}

# What the processes of a cluster have in their environment, beside the address of the token.
prepare_environment() {
    # What the environment says of other clusters and tokens is not meant for this one.
    unset RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$DIR/token RAY_USAGE_STATS_ENABLED=0
    # The command of a job starts with `python`: this one.
    export PATH="$(dirname "$PYTHON"):$PATH"
    # Figures for Prometheus would be told to everybody who asks: their ports know no token. Two of the three cannot be turned off, only be given
    # a number that is none.
    export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
    # Without its head a cluster is over; processes on its other nodes would look for it for a minute.
    export RAY_gcs_rpc_server_reconnect_timeout_s=10
    if [ "$1" = 127.0.0.1 ]; then export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0; fi
}

print_environment() {
    cat "$DIR/environment"
}

start() {
    local workers=1 cpus= port= dashboard= host=127.0.0.1
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || refuse "$1 without a value" "see the head of $0"
        case $1 in
        --workers) number "$1" "$2" 0 && workers=$2 ;;
        --cpus) number "$1" "$2" 1 && cpus=$2 ;;
        --port) number "$1" "$2" 1 && port=$2 ;;
        --dashboard-port) number "$1" "$2" 1 && dashboard=$2 ;;
        --host) host=$2 ;;
        *) refuse "$1 is no option of start" "see the head of $0" ;;
        esac
        shift 2
    done
    case $host in 0.0.0.0 | :: | '*') refuse "--host $host" "name the one address under which others reach this machine (hostname -I): they are told it" ;; esac
    [ "$(num_running)" -eq 0 ] || refuse "a cluster is running already (its files are in $DIR)" "stop it first, or give another --dir"
    "$PYTHON" -c 'import aiohttp, ray' 2>/dev/null || refuse "$PYTHON has no ray[default]" "pip install 'raydistill[cluster]', or name another PYTHON="

    rm -f "$DIR/processes" "$DIR/environment" "$DIR/token"
    (umask 077 && mkdir -p "$DIR" && "$PYTHON" -c 'import secrets; print(secrets.token_hex(32))' >"$DIR/token")
    # The paths of Ray's sockets have to fit into 107 characters, so its files lie in a short place.
    local temporary
    temporary=$(mktemp -d /tmp/rd-XXXXXX)
    echo "$temporary" >"$DIR/temporary"
    local machine
    machine=$("$PYTHON" -c 'import os; print(os.cpu_count())')
    cpus=${cpus:-$((machine / (workers + 1)))}
    [ "$cpus" -ge 1 ] || cpus=1
    echo "$cpus" >"$DIR/cpus"
    trap 'code=$?; stop >/dev/null 2>&1; exit $code' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    local ports
    read -r -a ports <<<"$(free_ports $((workers + 4)))"
    port=${port:-${ports[0]}}
    dashboard=${dashboard:-${ports[1]}}

    prepare_environment "$host"
    local each head
    read -r -a each <<<"$(common_options "$cpus")"
    head=(--head --port "$port" --dashboard-host "$host" --dashboard-port "$dashboard" --ray-client-server-port "${ports[3]}"
        --temp-dir "$temporary/r" --dashboard-agent-listen-port "${ports[2]}")
    say "starting a head and $workers worker(s) on $host, $cpus CPU(s) each"
    if [ "$host" != 127.0.0.1 ]; then
        say "warning: whoever reaches $host and has the token runs code as $(id -un), and the token passes unencrypted"
        head+=(--node-ip-address "$host")
    fi
    local place gpus
    gpus=$(gpus_here)
    launch head "$(gpus_of "$gpus" $((workers == 0)) 1)" "${each[@]}" "${head[@]}"
    for ((place = 1; place <= workers; place++)); do
        launch "worker$place" "$(gpus_of "$gpus" "$place" "$workers")" "${each[@]}" --address "$host:$port" --dashboard-agent-listen-port "${ports[$((place + 3))]}"
    done
    local deadline=$((SECONDS + START_SECONDS))
    until answers "http://$host:$dashboard"; do
        [ "$SECONDS" -lt "$deadline" ] || { say "error: the dashboard does not answer; see $temporary/r/session_latest/logs/dashboard.log"; return 1; }
        sleep 0.3
    done
    cat >"$DIR/environment" <<ENVIRONMENT
export RAY_ADDRESS=$host:$port
export RAY_API_SERVER_ADDRESS=http://$host:$dashboard
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH='$DIR/token'
unset RAY_AUTH_TOKEN
ENVIRONMENT
    # For programs that call Ray themselves; raydistill's own do without.
    [ "$host" != 127.0.0.1 ] || echo 'export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0' >>"$DIR/environment"
    trap - EXIT INT TERM
    say "dashboard http://$host:$dashboard (it asks for the token: cat '$DIR/token')"
    say "point a shell at it with the lines below; stop it with: $0 stop"
    print_environment
}

add() {
    local cpus= address options port
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || refuse "$1 without a value" "see the head of $0"
        case $1 in
        --cpus) number "$1" "$2" 1 && cpus=$2 ;;
        *) refuse "$1 is no option of add" "see the head of $0" ;;
        esac
        shift 2
    done
    if [ "$(num_running)" -eq 0 ] || [ ! -f "$DIR/environment" ]; then refuse "no cluster is running (nothing in $DIR)" "start it first, or give its --dir"; fi
    address=$(sed -n 's/^export RAY_ADDRESS=//p' "$DIR/environment")
    prepare_environment "${address%:*}"
    read -r -a options <<<"$(common_options "${cpus:-$(cat "$DIR/cpus")}")"
    port=$(free_ports 1)
    launch "worker$(wc -l <"$DIR/processes")" "$(gpus_of "$(gpus_here)" 0 1)" "${options[@]}" --address "$address" --dashboard-agent-listen-port "$port"
    say "added"
}

stop() {
    local role pid born deadline=$((SECONDS + STOP_SECONDS)) temporary
    [ -f "$DIR/processes" ] || { say "no cluster was started (nothing in $DIR)"; return 0; }
    # Workers first: a head that is gone lets them wait for it.
    sort -r "$DIR/processes" | while read -r role pid born; do
        if is_running "$pid" "$born"; then kill -TERM "$pid"; fi
    done
    while [ "$(num_running)" -gt 0 ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
    while read -r role pid born; do
        if is_running "$pid" "$born"; then kill -KILL "$pid"; fi
    done <"$DIR/processes"
    # What is left writes below the cluster's own folder; nobody else's process does.
    temporary=$(cat "$DIR/temporary")
    case $temporary in /tmp/rd-??????) "$PYTHON" -I -S "$ROOT/raydistill/orchestration/reaper.py" "$temporary" </dev/null ;; esac
    rm -f "$DIR"/processes "$DIR"/environment "$DIR"/temporary "$DIR"/cpus "$DIR"/token "$DIR"/head.log "$DIR"/worker[0-9]*.log
    say "stopped"
}

status() {
    local role pid born
    if [ "$(num_running)" -eq 0 ]; then
        say "not running"
        return 3
    fi
    while read -r role pid born; do
        say "$role: process $pid $(is_running "$pid" "$born" && echo runs || echo 'has ended')"
    done <"$DIR/processes"
    [ ! -f "$DIR/environment" ] || print_environment
}

rest=()
while [ $# -gt 0 ]; do
    if [ "$1" = --dir ]; then
        [ $# -ge 2 ] || refuse "--dir without a folder" "see the head of $0"
        DIR=$(mkdir -p "$2" && cd "$2" && pwd)
        shift 2
    else
        rest+=("$1")
        shift
    fi
done
case ${rest[0]:-} in
start | add | stop | status) "${rest[@]}" ;;
*) say "usage: $0 start [--workers N] [--cpus N] [--port P] [--dashboard-port P] [--host ADDRESS] | add [--cpus N] | stop | status   [--dir DIR]"; exit 2 ;;
esac
