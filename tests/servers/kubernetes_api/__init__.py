"""A stand-in for a Kubernetes cluster, for tests: an API server, a Job controller, a scheduler and kubelets.

It is no Kubernetes. The unmodified official client talks to it over HTTP, pods run for real as containers of this
machine's Docker, and what it does follows Kubernetes' documentation and API reference (1.37): paths, status codes and
`Status` bodies, resource versions, watches, label selectors, merge patches, which fields of a Job may change,
finalizers of pods, conditions and their reasons, how Indexed Jobs count failures, pod failure policies, how `$(VAR)` is
expanded, what a pod's container says when it waits or has ended. Objects are checked by the schemas that
`kubernetes-validate` bundles, unknown fields refused, and by the rules for names that these do not hold.

Other than real: the delay before a failed pod is started again is 0.05 seconds, not 10; there is no admission, no RBAC
but what a test forbids, no defaulting of pods; custom resources are kept and have no controllers; logs are never
rotated; nodes are names on one machine; a pod without a subdomain has no network.
"""
