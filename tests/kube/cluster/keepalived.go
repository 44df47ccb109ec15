package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"vipd/tests/kube/machine"
)

// Keepalived is what a cluster can be born behind in vipd's place: keepalived and haproxy, as static pods.
const Keepalived = "keepalived"

const (
	keepalivedImage = "registry.test/keepalived:1"
	haproxyImage    = "registry.test/haproxy:1"
	keepalivedFile  = "/etc/keepalived/keepalived.conf"
	checkFile       = "/etc/keepalived/check_apiserver.sh"
	haproxyFile     = "/etc/haproxy/haproxy.cfg"
)

// forebears are the images of keepalived, with what its check runs, and of haproxy, made from this machine's own programs.
func forebears() ([]image, error) {
	programs := map[string]string{}
	for _, name := range []string{"keepalived", "haproxy", "sh", "curl", "ip", "grep"} {
		program, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		programs[name] = program
	}
	return []image{
		{
			reference: keepalivedImage, program: programs["keepalived"], path: "usr/sbin/keepalived",
			more: map[string]string{
				"bin/sh": programs["sh"], "usr/bin/curl": programs["curl"], "usr/sbin/ip": programs["ip"], "usr/bin/grep": programs["grep"],
			},
			files: map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n"},
		},
		{reference: haproxyImage, program: programs["haproxy"], path: "usr/sbin/haproxy"},
	}, nil
}

// prepareForebears puts the files and manifests of keepalived and haproxy where a user puts them, before kubeadm runs on the node.
func (c *Cluster) prepareForebears(node *machine.Machine) error {
	place := slices.Index(c.ControlPlane, node)
	servers := &strings.Builder{}
	for _, server := range c.ControlPlane {
		fmt.Fprintf(servers, "    server %s %s:%d check\n", server.Name, server.Address, apiserverPort)
	}
	state := "BACKUP"
	if place == 0 {
		state = "MASTER"
	}
	for file, content := range map[string]string{
		keepalivedFile: fmt.Sprintf(keepalivedConfig, node.Name, checkFile, state, machine.Interface, 101-place, VIP),
		checkFile:      fmt.Sprintf(checkScript, apiserverPort, VIP, c.Port),
		haproxyFile:    fmt.Sprintf(haproxyConfig, c.Port, servers),
		"/etc/kubernetes/manifests/keepalived.yaml": fmt.Sprintf(keepalivedManifest, keepalivedImage, keepalivedFile, checkFile),
		"/etc/kubernetes/manifests/haproxy.yaml":    fmt.Sprintf(haproxyManifest, haproxyImage, c.Port, haproxyFile),
	} {
		if err := node.Write(file, content); err != nil {
			return err
		}
	}
	return os.Chmod(node.Path(checkFile), 0o700)
}

const keepalivedConfig = `global_defs {
    router_id %s
    script_user root
    enable_script_security
}

vrrp_script check_apiserver {
    script "%s"
    interval 3
    weight -2
    fall 10
    rise 2
}

vrrp_instance VI_1 {
    state %s
    interface %s
    virtual_router_id 51
    priority %d
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass testonly
    }
    virtual_ipaddress {
        %s/24
    }
    track_script {
        check_apiserver
    }
}
`

const checkScript = `#!/bin/sh
ask() {
    curl --silent --max-time 2 --insecure "https://$1/" --output /dev/null || exit 1
}
ask localhost:%d
if ip address | grep -q ' %[2]s/'; then
    ask %[2]s:%[3]d
fi
`

const haproxyConfig = `global
    maxconn 4000

defaults
    mode tcp
    option redispatch
    retries 1
    timeout queue 20s
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout check 10s

frontend apiserver
    bind *:%d
    mode tcp
    option tcplog
    default_backend apiserver

backend apiserver
    mode tcp
    option httpchk GET /healthz
    http-check expect status 200
    option ssl-hello-chk
    balance roundrobin
%s`

const keepalivedManifest = `apiVersion: v1
kind: Pod
metadata:
  name: keepalived
  namespace: kube-system
spec:
  containers:
  - name: keepalived
    image: %s
    command: [/usr/sbin/keepalived, --dont-fork, --log-console, --vrrp, -f, /etc/keepalived/keepalived.conf, -p, /tmp/keepalived.pid, -r, /tmp/vrrp.pid]
    securityContext:
      capabilities:
        add: [NET_ADMIN, NET_BROADCAST, NET_RAW]
    volumeMounts:
    - {name: config, mountPath: /etc/keepalived/keepalived.conf}
    - {name: check, mountPath: /etc/keepalived/check_apiserver.sh}
  hostNetwork: true
  volumes:
  - name: config
    hostPath: {path: %s}
  - name: check
    hostPath: {path: %s}
status: {}
`

const haproxyManifest = `apiVersion: v1
kind: Pod
metadata:
  name: haproxy
  namespace: kube-system
spec:
  containers:
  - name: haproxy
    image: %s
    command: [/usr/sbin/haproxy, -W, -db, -f, /usr/local/etc/haproxy/haproxy.cfg]
    livenessProbe:
      failureThreshold: 8
      httpGet: {host: localhost, path: /healthz, port: %d, scheme: HTTPS}
    volumeMounts:
    - {name: config, mountPath: /usr/local/etc/haproxy/haproxy.cfg, readOnly: true}
  hostNetwork: true
  volumes:
  - name: config
    hostPath: {path: %s, type: FileOrCreate}
status: {}
`
