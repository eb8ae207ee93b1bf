{{/* Rules of network policies. */}}

{{/* Names: the cluster's DNS, and the node-local cache of it. */}}
{{- define "halo.network.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
    - ipBlock:
        cidr: 169.254.20.10/32
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{/* Takes networks: IP blocks without the nodes' own services, such as the metadata service. */}}
{{- define "halo.network.blocks" -}}
{{- range . }}
- ipBlock:
    cidr: {{ . | quote }}
    {{- if eq . "0.0.0.0/0" }}
    except: ["169.254.0.0/16"]
    {{- else if eq . "::/0" }}
    except: ["fd00:ec2::/32", "fe80::/10"]
    {{- end }}
{{- end }}
{{- end }}

{{/* Takes the root: the API server. */}}
{{- define "halo.network.api" -}}
- to:
    {{- include "halo.network.blocks" .Values.networkPolicy.apiServerCIDRs | trim | nindent 4 }}
  ports:
    - {protocol: TCP, port: 443}
    - {protocol: TCP, port: 6443}
{{- end }}

{{/* Takes {root, urls}: the AWS endpoints, credentials of EKS Pod Identity, and the ports of endpoints that have others. */}}
{{- define "halo.network.aws" -}}
- to:
    {{- include "halo.network.blocks" .root.Values.networkPolicy.awsCIDRs | trim | nindent 4 }}
  ports:
    - {protocol: TCP, port: 443}
    {{- $ports := dict }}
    {{- range .urls }}
    {{- if . }}
    {{- $url := urlParse . }}
    {{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "80" "443" (eq $url.scheme "http")) }}
    {{- $_ := set $ports $port true }}
    {{- end }}
    {{- end }}
    {{- range keys $ports | sortAlpha }}
    {{- if ne . "443" }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
    {{- end }}
- to:
    - ipBlock: {cidr: 169.254.170.23/32}
    - ipBlock: {cidr: "fd00:ec2::23/128"}
  ports:
    - {protocol: TCP, port: 80}
{{- end }}

{{/* Takes the root: who may read metrics. */}}
{{- define "halo.network.readers" -}}
{{- range .Values.monitoring.namespaces }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
{{- end }}
{{- end }}

{{/* Takes the root: where traces go. */}}
{{- define "halo.network.traces" -}}
{{- with .Values.monitoring.otlpEndpoint }}
{{- $url := urlParse . }}
- ports:
    - {protocol: TCP, port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "80" "443" (eq $url.scheme "http")) }}}
{{- end }}
{{- end }}
