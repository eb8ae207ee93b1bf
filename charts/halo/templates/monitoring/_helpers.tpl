{{/* Whether objects of the Prometheus operator's kinds are written. Takes the root. */}}
{{- define "halo.monitoring.rendered" -}}
{{- $mode := .Values.monitoring.renderMode }}
{{- $known := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}
{{- if or $known (eq $mode "alwaysRender") -}}
true
{{- else if eq $mode "failIfMissing" -}}
{{- fail "monitoring.renderMode is failIfMissing and the cluster does not know monitoring.coreos.com/v1: install the Prometheus operator's definitions first, or set monitoring.renderMode to skipIfMissing, or to alwaysRender if this is rendered without a cluster" }}
{{- end }}
{{- end }}

{{/* Takes {root, port}: one endpoint that is scraped. */}}
{{- define "halo.monitoring.endpoint" -}}
{{- $monitors := .root.Values.monitoring.monitors -}}
- port: {{ .port }}
  path: /metrics
  interval: {{ $monitors.interval }}
  scrapeTimeout: {{ $monitors.scrapeTimeout }}
{{- end }}
