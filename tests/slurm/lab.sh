#!/bin/bash
# A real Slurm of one node on this machine: without systemd, without root where munge and Slurm are installed.
#
#   tests/slurm/lab.sh start|stop|status|stop-controller|restart-controller|wipe
#
# What to change (environment, all optional):
#   SLURM_LAB        state folder, absolute and SHORT: it holds unix sockets  [/tmp/slurmlab]
#   SLURM_LAB_CPUS   CPUs to declare; may exceed the real ones                 [8]
#   SLURM_LAB_GPUS   fake GPUs, 1 to 8                                         [4]
#   SLURM_LAB_ACCT   none, or dbd: slurmdbd with MariaDB, so that sacct works  [none]
#   SLURM_LAB_PORT   first of three TCP ports: slurmctld, slurmd, slurmdbd     [16817]
#   SLURM_LAB_CRED   a requeued job waits this + 1 s; Slurm takes 5 and up     [10]
#   SLURM_LAB_ARRAY  MaxArraySize                                              [1001]
#   SLURM_LAB_FORGET seconds that a finished job stays known to squeue         [3600]
#   SLURM_LAB_OWNER  a process id: when it is gone, the lab stops by itself    [none]
#   SLURM_LAB_FAST   1: test timings; 0: Slurm's own defaults                  [1]
#
# Partitions: main; low, which main pre-empts with the warning signal and a requeue; cancel, which main pre-empts
# with PreemptMode=CANCEL. A client (sbatch, squeue, a job) finds the lab by SLURM_CONF=$SLURM_LAB/etc/slurm.conf.
set -eu

LAB=${SLURM_LAB:-/tmp/slurmlab}
CPUS=${SLURM_LAB_CPUS:-8} GPUS=${SLURM_LAB_GPUS:-4} ACCT=${SLURM_LAB_ACCT:-none} PORT=${SLURM_LAB_PORT:-16817}
CRED=${SLURM_LAB_CRED:-10} ARRAY=${SLURM_LAB_ARRAY:-1001} FORGET=${SLURM_LAB_FORGET:-3600}
OWNER=${SLURM_LAB_OWNER:-} FAST=${SLURM_LAB_FAST:-1}
ME=$(id -un)
HOST=$(hostname -s)

# Daemons and srun listen on the address the host name resolves to. Where that is 127.0.1.1 (Debian's default) or
# nothing, srun would hang: listen on all addresses then, and reach them over 127.0.0.1.
ADDRESS=$(getent ahostsv4 "$HOST" | awk 'NR == 1 { print $1 }') || true
LISTEN=CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
case "$ADDRESS" in 127.0.0.1) ;; 127.* | '') ADDRESS=127.0.0.1 LISTEN= ;; esac
export SLURM_CONF=$LAB/etc/slurm.conf PATH=$PATH:/usr/sbin:/sbin

# --- processes, each by its own pid file -------------------------------------------------------------------------

runs() { # a zombie that PID 1 has not collected yet is gone
  kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.[ZX]' "/proc/$1/status"
}
pid_of() { cat "$LAB/run/$1.pid" 2>/dev/null; }
alive() { [ -s "$LAB/run/$1.pid" ] && runs "$(pid_of "$1")"; }

end() { # TERM to each, wait for the processes: a daemon removes its pid file before it has ended
  local name pid pids=() left=()
  for name in "$@"; do
    if alive "$name"; then
      pid=$(pid_of "$name")
      kill "$pid" 2>/dev/null && pids+=("$pid")
    fi
  done
  for _ in $(seq 200); do
    left=()
    for pid in "${pids[@]}"; do if runs "$pid"; then left+=("$pid"); fi; done
    [ ${#left[@]} -gt 0 ] || break
    sleep 0.05
  done
  for pid in "${left[@]}"; do
    echo "lab: process $pid is still there 10 s after TERM: KILL" >&2
    kill -KILL "$pid"
  done
  for name in "$@"; do rm -f "$LAB/run/$name.pid"; done
}

until_ok() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "lab: gave up waiting for: $*" >&2; return 1; }
    sleep 0.05
  done
}

# --- configuration -----------------------------------------------------------------------------------------------

gpu_files() { # a fake GPU must be a character device, one file each; without CAP_MKNOD borrow real ones
  local i borrowed=(/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty)
  for i in $(seq 0 $((GPUS - 1))); do
    [ -c "$LAB/dev/gpu$i" ] || mknod "$LAB/dev/gpu$i" c 1 3 2>/dev/null || {
      (IFS=,; echo "${borrowed[*]:0:$GPUS}")
      return
    }
  done
  echo "$LAB/dev/gpu[0-$((GPUS - 1))]"
}

configure() {
  mkdir -p "$LAB"/{etc,log,state,spool,munge,run,dev}
  chmod 755 "$LAB" "$LAB"/*/
  [ -s "$LAB/munge/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$LAB/munge/munge.key")
  printf 'AutoDetect=off\nNodeName=n0 Name=gpu File=%s\n' "$(gpu_files)" >"$LAB/etc/gres.conf"
  # without this line slurmd 22.05 refuses to start where no cgroup file system is mounted
  echo 'CgroupPlugin=cgroup/v1' >"$LAB/etc/cgroup.conf"
  { cluster_settings; test_timings; accounting_settings; } >"$SLURM_CONF"
  [ "$ACCT" != dbd ] || (umask 077; database_settings >"$LAB/etc/slurmdbd.conf")
}

cluster_settings() {
  cat <<EOF
ClusterName=lab
SlurmctldHost=$HOST($ADDRESS)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
$LISTEN
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
CredType=cred/munge
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.log
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize=$ARRAY
GresTypes=gpu
NodeName=n0 NodeHostname=$HOST NodeAddr=$ADDRESS CPUs=$CPUS RealMemory=$(real_memory) Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=n0 Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=n0 Default=NO MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=cancel Nodes=n0 Default=NO MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL GraceTime=5
EOF
}

real_memory() { slurmd -C | sed -n 's/.*RealMemory=\([0-9]*\).*/\1/p'; }

test_timings() {
  if [ "$FAST" != 1 ]; then
    echo "AuthInfo=socket=$LAB/munge/munge.sock"
    return
  fi
  cat <<EOF
AuthInfo=socket=$LAB/munge/munge.sock,cred_expire=$CRED
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MessageTimeout=5
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=2
MinJobAge=$FORGET
SlurmctldDebug=info
SlurmdDebug=info
EOF
}

accounting_settings() {
  if [ "$ACCT" != dbd ]; then
    printf 'AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n'
    return
  fi
  cat <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$ADDRESS
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$LAB/munge/munge.sock
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
EOF
}

database_settings() {
  cat <<EOF
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/munge.sock
DbdHost=$HOST
DbdAddr=$ADDRESS
DbdPort=$((PORT + 2))
SlurmUser=$ME
PidFile=$LAB/run/slurmdbd.pid
LogFile=$LAB/log/slurmdbd.log
DebugLevel=info
CommitDelay=0
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
$LISTEN
EOF
}

# --- start and stop ----------------------------------------------------------------------------------------------

start_munge() {
  alive munged && return
  munged --key-file="$LAB/munge/munge.key" --socket="$LAB/munge/munge.sock" --log-file="$LAB/log/munged.log" \
    --pid-file="$LAB/run/munged.pid" --seed-file="$LAB/munge/munged.seed" --origin=127.0.0.1
  until_ok 5 alive munged
}

sql() { mariadb --no-defaults -S "$LAB/run/mysql.sock" -e "$1"; }

start_database() {
  if ! alive mariadbd; then
    [ -d "$LAB/mysql/mysql" ] || mariadb-install-db --no-defaults --user="$ME" --datadir="$LAB/mysql" --skip-test-db \
      >"$LAB/log/mysql_install.log" 2>&1
    mariadbd --no-defaults --user="$ME" --datadir="$LAB/mysql" --socket="$LAB/run/mysql.sock" \
      --pid-file="$LAB/run/mariadbd.pid" --skip-networking --innodb-buffer-pool-size=64M \
      --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=16M \
      --skip-log-bin >"$LAB/log/mariadbd.log" 2>&1 &
    until_ok 30 sql 'select 1'
    sql "create database if not exists slurm_acct;
         create user if not exists slurm@localhost identified by 'slurm';
         grant all on slurm_acct.* to slurm@localhost;"
  fi
  alive slurmdbd || MYSQL_UNIX_PORT="$LAB/run/mysql.sock" slurmdbd
  until_ok 30 timeout 5 sacctmgr -n -i show cluster
}

node_is_idle() { [ "$(sinfo -h -p main -o %t)" = idle ]; }

start() {
  configure
  start_munge
  [ "$ACCT" != dbd ] || start_database # before slurmctld, which registers with it
  alive slurmctld || slurmctld -i
  until_ok 15 scontrol ping
  alive slurmd || slurmd
  until_ok 20 node_is_idle || { scontrol show node n0 | grep -E 'State|Reason' >&2; return 1; }
  if [ -n "$OWNER" ]; then setsid bash "$0" guard </dev/null >/dev/null 2>&1 & fi
}

guard() { # daemons belong to nobody: a test session that was killed must not leave them behind
  while runs "$OWNER" && [ -s "$LAB/run/munged.pid" ]; do sleep 1; done
  stop
}

stop() {
  [ -d "$LAB/run" ] || return 0
  if alive slurmctld; then
    scancel --quiet -u "$ME" -t PENDING 2>/dev/null || true # first, or they start as the others die
    # submitit's jobs ignore TERM, and scancel's KILL comes 7 s later: ALRM ends them at once
    scancel --quiet -u "$ME" --signal=ALRM 2>/dev/null || true
    scancel --quiet -u "$ME" 2>/dev/null || true
    until_ok 10 no_jobs || true
  fi
  end slurmd slurmctld
  end slurmdbd
  end mariadbd munged
}
no_jobs() { [ -z "$(squeue -h)" ]; }

case "${1:-}" in
  start) start; echo "export SLURM_CONF=$SLURM_CONF" ;;
  stop) stop ;;
  guard) guard ;;
  stop-controller) end slurmctld ;;
  restart-controller) # TERM saves its state; after a KILL it forgets young jobs and gives their ids out again
    end slurmctld
    slurmctld
    until_ok 15 scontrol ping
    ;;
  status)
    for daemon in munged mariadbd slurmdbd slurmctld slurmd; do
      if alive $daemon; then echo "$daemon $(pid_of $daemon)"; else echo "$daemon -"; fi
    done
    sinfo 2>&1 || true
    ;;
  wipe) stop; rm -rf "$LAB" ;;
  *) sed -n '2,21p' "$0"; exit 2 ;;
esac
