"""Why a job waits, in plain words: the reasons that Slurm gives (man squeue, JOB REASON CODES), with what to do."""

REASONS: tuple[tuple[str, str, str], ...] = (
    # beginning of Slurm's word, what it means, what to do
    ("launch failed requeued held", "Slurm could not start it on a node, put it back and holds it",
     "scontrol release {job}; if it comes again, a node is broken: exclude it in the profile's extra table"),
    ("JobHeldAdmin", "an administrator holds it", "ask them"),
    ("JobHeldUser", "it is held", "scontrol release {job}"),
    ("Priority", "jobs of higher priority are before it", ""),
    ("Resources", "it waits for a node with enough free GPUs, CPUs and memory", ""),
    ("JobArrayTaskLimit", "the array's own limit: so many of its trials run at a time (parallel in the profile, or "
     "--jobs)", ""),
    ("BeginTime", "it was put back a moment ago and starts again when Slurm allows it, within minutes", ""),
    ("Dependency", "it waits for another job", ""),
    ("DependencyNeverSatisfied", "it waits for a job that failed, and will never start",
     "python sweeps/run.py cancel {sweep}, then launch again"),
    ("QOSMaxJobsPerUser", "your QOS runs no more of your jobs at a time", "it starts when others of yours end"),
    ("QOSMaxSubmitJob", "your QOS takes no more jobs of yours into the queue", "the runner submits later by itself"),
    ("QOSMaxWallDuration", "the profile's time is longer than your QOS allows, so that it never starts",
     "cancel, lower time in the profile, and launch again"),
    ("QOSJobLimit", "your QOS is at its limit of jobs", "it starts when others end"),
    ("QOSMin", "it asks for less than your QOS demands, so that it never starts",
     "cancel, change gpus, cpus or mem_gb in the profile, and launch again"),
    ("QOSGrp", "all jobs of the QOS together are at their limit", "it starts when others end"),
    ("QOSMax", "it would exceed what your QOS gives one user or job",
     "it starts when others of yours end; where it asks for more than the limit itself, lower gpus, cpus or mem_gb"),
    ("QOS", "a limit of your QOS", "sacctmgr show qos shows the limits"),
    ("AssocGrp", "your account's share is used up for now", "it starts when jobs of the account end, or its share is "
     "renewed: ask whoever administers the account"),
    ("AssocMaxWallDuration", "the profile's time is longer than your account allows, so that it never starts",
     "cancel, lower time in the profile, and launch again"),
    ("Assoc", "a limit of your account", "it starts when other jobs of yours end; sacctmgr show assoc tells it"),
    ("PartitionTimeLimit", "the profile's time is longer than the partition allows, so that it never starts",
     "cancel, lower time in the profile (sinfo shows the partition's limit), and launch again"),
    ("PartitionNodeLimit", "it asks for more nodes than the partition allows, so that it never starts",
     "cancel, lower nodes in the profile or take another partition, and launch again"),
    ("PartitionDown", "the partition takes no jobs now", "wait, or take another partition"),
    ("PartitionInactive", "the partition takes no jobs now", "wait, or take another partition"),
    ("Partition", "a limit of the partition", "sinfo and scontrol show partition tell it"),
    ("ReqNodeNotAvail", "the nodes that it could use are down, drained or reserved",
     "wait, or cancel and change partition or constraint; sinfo -R tells why nodes are down"),
    ("Nodes required for job are DOWN", "the nodes that it could use are down, drained or reserved",
     "wait; sinfo -R tells why nodes are down"),
    ("NodeDown", "the node that it needs is down", "wait; sinfo -R tells why"),
    ("BadConstraints", "no node has what it asks for, so that it never starts",
     "cancel, correct constraint, gpus, cpus or mem_gb in the profile (sinfo -o '%N %f %G %m' shows what there is)"),
    ("InvalidAccount", "the account in the profile is not valid here", "cancel, correct account, and launch again"),
    ("InvalidQOS", "the qos in the profile is not valid here", "cancel, correct qos, and launch again"),
    ("AccountNotAllowed", "the partition does not take this account", "cancel, correct account or partition"),
    ("QOSNotAllowed", "the partition does not take this QOS", "cancel, correct qos or partition"),
    ("MaxRequeueExceeded", "it was put back too often and is held", "scontrol release {job}"),
    ("Licenses", "it waits for a licence", ""),
    ("Reservation", "it waits for its reservation", ""),
    ("Cleaning", "Slurm still cleans up after its last run", ""),
    ("Prolog", "the node is being prepared", ""),
    ("FrontEndDown", "Slurm's front end is down", "wait"),
)  # fmt: skip


def plain_reason(reason: str, job: str, sweep: str) -> tuple[str, str]:
    """What a reason of Slurm means and what to do ("" for nothing but waiting); an unknown reason as it is."""
    word = reason.strip("()").replace("_", " ").lower()
    known = [row for row in REASONS if word.startswith(row[0].lower())]
    if not known:
        return (f"Slurm says {reason}" if reason else "Slurm gives no reason", "")
    _, means, cure = max(known, key=lambda row: len(row[0]))
    return f"{means} ({reason})", cure.format(job=job, sweep=sweep)
