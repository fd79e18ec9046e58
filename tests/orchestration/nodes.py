"""A cluster of several machines on this one, in a process of its own: nodes.py FOLDER NUM_WORKERS HEAD_CPUS.

It says the head's address and then, a line for each machine, its processes' numbers, the head's first. `add` on standard input adds a machine; its end is
the end of the cluster.
"""

from __future__ import annotations

import sys
from typing import Any

from ray.cluster_utils import Cluster


def tell(node: Any) -> None:
    processes = (one.process.pid for kind in node.all_processes.values() for one in kind)
    sys.stdout.write(f"{' '.join(map(str, processes))}\n")
    sys.stdout.flush()


def main() -> None:
    folder, num_workers, head_cpus = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    arguments = {"include_dashboard": False, "temp_dir": folder, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**arguments, "num_cpus": head_cpus})
    sys.stdout.write(f"{cluster.address}\n")
    tell(cluster.head_node)
    for _ in range(num_workers):
        tell(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))
    for _ in sys.stdin:
        tell(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))
    cluster.shutdown()


if __name__ == "__main__":
    main()
