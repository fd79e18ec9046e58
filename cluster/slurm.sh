#!/usr/bin/env bash
# One campaign on Slurm: a Ray cluster over the job's machines, the campaign on it, and both end together.
#
#   sbatch --nodes 4 cluster/slurm.sh CONFIG RUN_DIR [options of raydistill run]
#   squeue --me ; tail -f raydistill-JOB.log         its state, its log
#   raydistill status RUN_DIR                        grades and trials, from any machine that sees RUN_DIR
#   scancel --signal=TERM --batch JOB                end it: the campaign saves; the same sbatch line goes on with it
#
# Costs: nodes * hours of whatever the site charges for the resources below (sbatch's options override them).
#
# Reaching it: the head's own ports listen on its address inside Slurm's network, because the other machines have to reach them; all of Ray asks for
# a token that only this user can read. The dashboard listens on the head's 127.0.0.1: ssh -L 8265:127.0.0.1:PORT HEAD (both are in the log).
#
# Needs: a file system that all machines see for this repository, its .venv (RAYDISTILL_VENV names another one), CONFIG's dataset, RUN_DIR, and $HOME,
# where the token lies.
#
#SBATCH --job-name=raydistill
#SBATCH --output=raydistill-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
# Two minutes before the time is over (Slurm may do it a minute earlier) the campaign is told to save; then Slurm runs the job again, which goes on. When the job is
# preempted it is told so where the site has PreemptParameters=send_user_signal, and else goes on from its last checkpoint.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: sbatch [options] $0 CONFIG RUN_DIR [options of raydistill run]" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: not inside a Slurm job; start it with sbatch" >&2; exit 2; }
config=$1 run=$2
shift 2

venv=${RAYDISTILL_VENV:-$SLURM_SUBMIT_DIR/.venv}
export PATH="$venv/bin:$PATH"
command -v ray >/dev/null && command -v raydistill >/dev/null || { echo "error: no ray and raydistill in $venv" >&2; exit 2; }

# What the environment says of other clusters and tokens is not meant for this one.
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN
files=$(mktemp -d "$HOME/.raydistill-$SLURM_JOB_ID-XXXXXX")
trap 'rm -rf "$files"' EXIT
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"$files/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$files/token RAY_USAGE_STATS_ENABLED=0
# Figures for Prometheus would be told to everybody on Slurm's network: their ports know no token. Two of the three cannot be turned off, only be given
# a number that is none.
export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
# Longer than a head waits for a machine, or a driver for its head, before it gives it up (half a minute): after ten seconds of a broken network every process
# on a machine would end by itself. Without its head a cluster is over: those on other machines then end after that minute, and a campaign that goes on
# elsewhere meanwhile waits for what they hold.
export RAY_gcs_rpc_server_reconnect_timeout_s=60

# Since Slurm 22.05 a step does not inherit the job's CPUs per task: what trains would be bound to one CPU of those that Ray is told of.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
said=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address) || { echo "error: $head does not say its address" >&2; exit 1; }
address=$(tr ' ' '\n' <<<"$said" | grep -v -e : -e '^127\.' | head -n 1 || true)
[ -n "$address" ] || { echo "error: $head has no address but the loopback one" >&2; exit 1; }
# Several jobs may share a machine: ports of its own for each, below those that systems hand out.
port=$((20000 + SLURM_JOB_ID % 5000))
dashboard=$((25000 + SLURM_JOB_ID % 5000))
agent=$((15000 + SLURM_JOB_ID % 5000))
client=$((10000 + SLURM_JOB_ID % 5000))
# Ray opens its folder to every user of the machine, so it lies below one of ours, under a name that nobody can have taken: on each machine's own disk,
# and short, because the paths of Ray's sockets have to fit into 107 characters.
folder=/tmp/rd-$SLURM_JOB_ID-$(python -c 'import secrets; print(secrets.token_hex(4))')
everywhere=(srun --overlap --nodes="${#machines[@]}" --ntasks="${#machines[@]}" --ntasks-per-node=1)
common=(--block --disable-usage-stats --num-cpus "${SLURM_CPUS_PER_TASK:-1}" --min-worker-port 0 --max-worker-port 0
    --dashboard-agent-listen-port "$agent")

end() {
    local status=$?
    trap - EXIT
    kill -TERM "${starters[@]}" 2>/dev/null || true
    wait "${starters[@]}" 2>/dev/null || true
    # Ends what still writes there, then removes it. A job that is killed rather than told to end leaves it to the machines' own cleaning of /tmp.
    if [ -n "$made" ]; then "${everywhere[@]}" python -m raydistill.orchestration.reaper "$folder" </dev/null || true; fi
    rm -rf "$files"
    exit "$status"
}
starters=() made=
trap end EXIT

# One that is there already is somebody else's: `mkdir` fails, and with it the job.
made=yes
"${everywhere[@]}" mkdir -m 700 "$folder" || { echo "error: $folder cannot be made on every machine" >&2; exit 1; }
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray start --head "${common[@]}" --node-ip-address "$address" --port "$port" \
    --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" --ray-client-server-port "$client" --temp-dir "$folder/r" &
starters+=($!)
for _ in $(seq 60); do
    ray status --address "$address:$port" >/dev/null 2>&1 && break
    kill -0 "${starters[0]}" 2>/dev/null || { echo "error: the head did not start" >&2; exit 1; }
    sleep 1
done
# On each other machine Ray is started again where it has ended, unless the head has not answered for five minutes. A head that has given a machine up, after a
# network that was broken for longer, does not take it back: it would be lost to the campaign, and be paid for, until the job ends.
worker='
head=$1 over= child=
shift
trap "over=1; kill -TERM \$child 2>/dev/null" TERM INT
until [ "$over" ]; do
    "$@" &
    child=$!
    while kill -0 "$child" 2>/dev/null; do wait "$child"; done
    for look in $(seq 60); do
        [ -n "$over" ] || { sleep 5 & wait $!; }
        [ -z "$over" ] || exit 0
        ray status --address "$head" >/dev/null 2>&1 && continue 2
    done
    exit 1
done'
others=$((${#machines[@]} - 1))
if [ "$others" -gt 0 ]; then
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
        bash -c "$worker" worker "$address:$port" ray start "${common[@]}" --address "$address:$port" &
    starters+=($!)
fi
# The campaign follows machines that come and go; but what a trial gets is decided by those that are there when its grade begins.
joined=1
for _ in $(seq 60); do
    joined=$(ray status --address "$address:$port" 2>/dev/null | grep -c '^ *[0-9]* node_' || true)
    [ "$joined" -ge "${#machines[@]}" ] && break
    sleep 2
done
[ "$joined" -ge "${#machines[@]}" ] || echo "warning: $joined of ${#machines[@]} machines have joined after two minutes; the campaign begins with these" >&2
echo "head $head, Ray $address:$port, dashboard http://127.0.0.1:$dashboard on $head, ${#machines[@]} machine(s)"

resume=()
if [ -f "$run/config.yaml" ]; then resume=(--resume); fi
export RAY_ADDRESS=$address:$port
# Before it starts: the signal may come at any time.
campaign= told=
trap 'told=yes; [ -z "$campaign" ] || kill -TERM "$campaign" 2>/dev/null || true' TERM INT
raydistill --verbose run "$config" --run-dir "$run" "${resume[@]}" "$@" &
campaign=$!
[ -z "$told" ] || kill -TERM "$campaign" 2>/dev/null || true
status=0
wait "$campaign" || status=$?
# A signal ends `wait` before the campaign has saved.
while kill -0 "$campaign" 2>/dev/null; do wait "$campaign" && status=0 || status=$?; done
# 143: told to end. Where Slurm did so because of the time, it is asked for another turn.
if [ "$status" -eq 143 ]; then
    left=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %L 2>/dev/null || true)
    case $left in [0-2]:[0-5][0-9] | 3:[0-2][0-9]) scontrol requeue "$SLURM_JOB_ID" || true ;; esac
fi
exit "$status"
