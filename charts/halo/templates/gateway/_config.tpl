{{/* The gateway's configuration file. Numbers of values are floats to Helm; the file has whole ones. */}}
{{- define "halo.gateway.config" -}}
listen = "0.0.0.0:8443"
admin_listen = "0.0.0.0:9090"
ledger = {{ include "halo.ledger" . | toJson }}
ledger_spill = "/var/lib/halo/spill"
{{- if .Values.gateway.tls.insecurePlaintext }}
insecure_plaintext = true
{{- else }}

[tls]
certificate = "/etc/halo/tls/tls.crt"
key = "/etc/halo/tls/tls.key"
{{- end }}

[cluster]
content = {{ .Values.gateway.config.cluster.content | toJson }}
keys_settle_ms = {{ .Values.gateway.config.cluster.keys_settle_ms | int64 }}

[limits]
{{- range $key := keys .Values.gateway.config.limits | sortAlpha }}
{{ $key }} = {{ get $.Values.gateway.config.limits $key | int64 }}
{{- end }}
{{- end }}

{{/* The Secret with the certificate. */}}
{{- define "halo.gateway.tlsSecret" -}}
{{ default "halo-gateway-tls" .Values.gateway.tls.secretName }}
{{- end }}
