"""A plan as it was once made, and looked at."""

RECORDED_PLAN = r"""# job.yaml
apiVersion: "batch/v1"
kind: "Job"
metadata:
  name: "<name>"
  namespace: "training"
  labels:
    app.kubernetes.io/managed-by: "tunewright"
    tunewright.ai/name: "<name>"
    tunewright.ai/run: "run-1"
    tunewright.ai/commit: "cccccccccccccccccccccccccccccccccccccccc"
  annotations:
    tunewright.ai/run: "Run_1"
    tunewright.ai/run-dir: "/home/runs/Run_1"
    tunewright.ai/key: "<key>"
spec:
  completionMode: "Indexed"
  completions: 2
  parallelism: 2
  backoffLimitPerIndex: 2
  maxFailedIndexes: 0
  podReplacementPolicy: "Failed"
  podFailurePolicy:
    rules:
      - action: "FailJob"
        onExitCodes:
          containerName: "job"
          operator: "In"
          values:
            - 64
            - 65
            - 66
            - 77
            - 78
  suspend: false
  activeDeadlineSeconds: 3600
  ttlSecondsAfterFinished: 604800
  template:
    metadata:
      labels:
        app.kubernetes.io/managed-by: "tunewright"
        tunewright.ai/name: "<name>"
        tunewright.ai/run: "run-1"
        tunewright.ai/commit: "cccccccccccccccccccccccccccccccccccccccc"
      annotations:
        tunewright.ai/start: |
          {
           "command": [
            "trainer",
            "train",
            "$(HOME) $$"
           ],
           "directory": "/home/runs/Run_1",
           "defaults": {
            "HOME": "/tmp",
            "USER": "tunewright",
            "LANG": "C.UTF-8"
           },
           "variables": {
            "A": "$(A)"
           },
           "secrets": [
            "OTHER",
            "TOKEN"
           ],
           "nodes": 2,
           "port": 29500,
           "link_port": 29501,
           "join_seconds": 3600,
           "grace_seconds": 30,
           "has_service_account": true
          }
    spec:
      restartPolicy: "Never"
      enableServiceLinks: false
      automountServiceAccountToken: true
      terminationGracePeriodSeconds: 30
      containers:
        - name: "job"
          image: "registry.example/trainer@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
          imagePullPolicy: "IfNotPresent"
          command:
            - "python3"
            - "-I"
            - "-S"
            - "-c"
            - |
              <the start program>
          env:
            - name: "TUNEWRIGHT_START"
              valueFrom:
                fieldRef:
                  fieldPath: "metadata.annotations['tunewright.ai/start']"
            - name: "TUNEWRIGHT_START_NAME"
              valueFrom:
                fieldRef:
                  fieldPath: "metadata.labels['tunewright.ai/name']"
            - name: "OTHER"
              valueFrom:
                secretKeyRef:
                  name: "tunewright"
                  key: "other"
            - name: "TOKEN"
              valueFrom:
                secretKeyRef:
                  name: "hub"
                  key: "token"
            - name: "TUNEWRIGHT_START_FAILURES"
              valueFrom:
                fieldRef:
                  fieldPath: "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"
            - name: "TUNEWRIGHT_START_DISRUPTIONS"
              valueFrom:
                fieldRef:
                  fieldPath: "metadata.annotations['batch.kubernetes.io/job-index-ignored-failure-count']"
            - name: "TUNEWRIGHT_START_MASTER"
              value: "<name>-0.<name>"
          volumeMounts:
            - name: "shm"
              mountPath: "/dev/shm"
            - name: "mount-0"
              mountPath: "/home"
            - name: "mount-1"
              mountPath: "/models"
              readOnly: true
          terminationMessagePath: "/dev/termination-log"
          terminationMessagePolicy: "File"
          resources:
            requests:
              cpu: "4000m"
              memory: "16384Mi"
              nvidia.com/gpu: "8"
            limits:
              memory: "16384Mi"
              nvidia.com/gpu: "8"
      volumes:
        - name: "shm"
          emptyDir:
            medium: "Memory"
            sizeLimit: "4096Mi"
        - name: "mount-0"
          persistentVolumeClaim:
            claimName: "home"
        - name: "mount-1"
          hostPath:
            path: "/mnt/models"
      tolerations:
        - key: "node.kubernetes.io/not-ready"
          operator: "Exists"
          effect: "NoExecute"
          tolerationSeconds: 60
        - key: "node.kubernetes.io/unreachable"
          operator: "Exists"
          effect: "NoExecute"
          tolerationSeconds: 60
        - key: "nvidia.com/gpu"
          operator: "Exists"
          effect: "NoSchedule"
      nodeSelector:
        gpu: "h100"
      priorityClassName: "high"
      serviceAccountName: "trainer"
      imagePullSecrets:
        - name: "registry"
      securityContext:
        runAsUser: 1000
        runAsGroup: 100
        fsGroup: 100
        fsGroupChangePolicy: "OnRootMismatch"
      subdomain: "<name>"
# service.yaml
apiVersion: "v1"
kind: "Service"
metadata:
  name: "<name>"
  namespace: "training"
  labels:
    app.kubernetes.io/managed-by: "tunewright"
    tunewright.ai/name: "<name>"
    tunewright.ai/run: "run-1"
    tunewright.ai/commit: "cccccccccccccccccccccccccccccccccccccccc"
  annotations:
    tunewright.ai/run: "Run_1"
    tunewright.ai/run-dir: "/home/runs/Run_1"
    tunewright.ai/key: "<key>"
spec:
  clusterIP: "None"
  publishNotReadyAddresses: true
  selector:
    tunewright.ai/name: "<name>"
# kubernetes.json
{
  "run": "Run_1",
  "run_dir": "/home/runs/Run_1",
  "nodes": 2,
  "render": "job",
  "kubeconfig": null,
  "context": "prod",
  "namespace": "training",
  "secrets": {
    "OTHER": "tunewright/other",
    "TOKEN": "hub/token"
  }
}
"""
