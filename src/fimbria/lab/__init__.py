"""A Kubernetes cluster out of namespaces on one machine: real agents, real datapath, real CNI.

    lab up ── starts ──► janitor (machine's namespaces) ── forks ──► supervisor (PID 1 of the lab)
                                                                       ├ apiserver, operator
                                                                       ├ per node: agent, pods
                                                                       └ controllers, kubelets

The supervisor has its own PID, mount and network namespaces, and every process, mount and
namespace of the lab hangs on them: when it ends, however that happens, the kernel ends them all.
What the kernel does not end with it (control groups, the run directory) the janitor removes; if
the janitor dies, the supervisor ends the lab. `launch` starts a lab, `client` talks to one.
"""
