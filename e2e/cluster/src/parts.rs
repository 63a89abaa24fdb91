//! The components: what each is called and what it is told. Paths are those inside the cluster, where its state is `/mnt`; what is
//! longer than a flag lies in `node/` as the file that the component reads.

/// The node's name in the API.
pub(crate) const NODE_NAME: &str = "node";
/// The node's addresses. Everything is in the ranges that are set aside for benchmarks (RFC 2544, RFC 5180): neither private nor
/// public, so that no rule about either kind speaks up.
pub(crate) const NODE_ADDRESSES: [&str; 2] = ["198.19.0.1", "2001:2:0:c::1"];
/// The `kubernetes` Service's address, and what it would be in the other family.
pub(crate) const SERVICE_ADDRESSES: [&str; 2] = ["198.18.128.1", "2001:2:0:b::1"];
/// Pods' addresses.
pub(crate) const POD_RANGES: &str = "198.18.0.0/17,2001:2:0:a::/64";
/// Services' addresses. The first family is that of Services which do not say.
pub(crate) const SERVICE_RANGES: &str = "198.18.128.0/20,2001:2:0:b::/112";
/// The API server, as the node and everybody who enters its network see it.
pub(crate) const API: &str = "https://198.19.0.1:6443";

/// The files that go to `/mnt/config`, as they are.
pub(crate) const CONFIG: [(&str, &str); 6] = [
    ("containerd.toml", include_str!("../node/containerd.toml")),
    ("kubelet.yaml", include_str!("../node/kubelet.yaml")),
    ("kube-proxy.yaml", include_str!("../node/kube-proxy.yaml")),
    ("Corefile", include_str!("../node/Corefile")),
    ("resolv.conf", include_str!("../node/resolv.conf")),
    ("cni/10-bridge.conflist", include_str!("../node/cni/10-bridge.conflist")),
];

/// One component of the cluster, which can be stopped and started by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store under the API server.
    Etcd,
    /// Runs containers.
    Containerd,
    /// The API server.
    ApiServer,
    /// The controllers of the built-in kinds.
    ControllerManager,
    /// Puts pods on the node.
    Scheduler,
    /// Runs the node's pods.
    Kubelet,
    /// Makes Services' addresses work.
    Proxy,
    /// Answers for Services' names.
    Dns,
}

impl Part {
    /// All of them, each after those that it waits for.
    pub const ALL: [Self; 8] =
        [Self::Etcd, Self::Containerd, Self::ApiServer, Self::ControllerManager, Self::Scheduler, Self::Kubelet, Self::Proxy, Self::Dns];

    /// The name of its program and of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Containerd => "containerd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::Dns => "coredns",
        }
    }

    /// Where it listens, for those that others give up without: kubelet does not wait for containerd.
    pub(crate) fn socket(self) -> Option<&'static str> {
        match self {
            Self::Containerd => Some("/run/containerd/containerd.sock"),
            Self::Etcd | Self::ApiServer | Self::ControllerManager | Self::Scheduler | Self::Kubelet | Self::Proxy | Self::Dns => None,
        }
    }

    /// Its arguments; `cgroup` is the control group that all pods are below.
    pub(crate) fn arguments(self, cgroup: &str) -> Vec<String> {
        match self {
            Self::Etcd => etcd(),
            Self::Containerd => words("--config /mnt/config/containerd.toml"),
            Self::ApiServer => api_server(),
            Self::ControllerManager => controller_manager(),
            Self::Scheduler => controller("kube-scheduler"),
            Self::Kubelet => kubelet(cgroup),
            Self::Proxy => words("--config=/mnt/config/kube-proxy.yaml"),
            Self::Dns => words("-conf /mnt/config/Corefile"),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Nothing that a test stores must outlive the machine, so no write waits for the disk.
fn etcd() -> Vec<String> {
    words(
        "--data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn
         --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380
         --initial-cluster=default=http://127.0.0.1:2380",
    )
}

fn api_server() -> Vec<String> {
    let mut arguments = words(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=::
         --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged
         --client-ca-file=/mnt/pki/ca.crt
         --tls-cert-file=/mnt/pki/kube-apiserver.crt --tls-private-key-file=/mnt/pki/kube-apiserver.key
         --kubelet-certificate-authority=/mnt/pki/ca.crt --kubelet-preferred-address-types=InternalIP
         --kubelet-client-certificate=/mnt/pki/kubelet-client.crt --kubelet-client-key=/mnt/pki/kubelet-client.key
         --service-account-issuer=https://kubernetes.default.svc.cluster.local
         --service-account-key-file=/mnt/pki/service-accounts.pub
         --service-account-signing-key-file=/mnt/pki/service-accounts.key
         --requestheader-client-ca-file=/mnt/pki/front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client
         --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
         --requestheader-extra-headers-prefix=X-Remote-Extra-
         --proxy-client-cert-file=/mnt/pki/front-proxy-client.crt --proxy-client-key-file=/mnt/pki/front-proxy-client.key",
    );
    arguments.push(format!("--advertise-address={}", NODE_ADDRESSES[0]));
    arguments.push(format!("--service-cluster-ip-range={SERVICE_RANGES}"));
    arguments
}

/// What every controller is told. There is one of each, so none waits to be elected.
fn controller(name: &str) -> Vec<String> {
    let kubeconfig = format!("/mnt/pki/{name}.kubeconfig");
    let flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    let flags = flags.iter().map(|flag| format!("--{flag}={kubeconfig}"));
    flags.chain(["--leader-elect=false".to_owned()]).collect()
}

fn controller_manager() -> Vec<String> {
    let mut arguments = controller("kube-controller-manager");
    arguments.extend(words(
        // The usual limits of its client would spend three seconds on the controllers' own accounts.
        "--kube-api-qps=500 --kube-api-burst=1000
         --use-service-account-credentials --service-account-private-key-file=/mnt/pki/service-accounts.key
         --root-ca-file=/mnt/pki/ca.crt --cluster-name=kybernis
         --cluster-signing-cert-file=/mnt/pki/ca.crt --cluster-signing-key-file=/mnt/pki/ca.key",
    ));
    arguments.push(format!("--cluster-cidr={POD_RANGES}"));
    arguments
}

fn kubelet(cgroup: &str) -> Vec<String> {
    let mut arguments = words("--config=/mnt/config/kubelet.yaml --kubeconfig=/mnt/pki/kubelet.kubeconfig");
    arguments.push(format!("--hostname-override={NODE_NAME}"));
    arguments.push(format!("--node-ip={}", NODE_ADDRESSES.join(",")));
    arguments.push(format!("--cgroup-root=/{cgroup}"));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of `node/` are read as they are, so the addresses stand in them again.
    #[test]
    fn the_files_and_the_flags_name_the_same_addresses() {
        let file = |wanted: &str| CONFIG.iter().find(|(name, _)| *name == wanted).map_or("", |(_, text)| *text);
        for range in POD_RANGES.split(',') {
            assert!(file("cni/10-bridge.conflist").contains(range), "{range}");
            assert!(file("kube-proxy.yaml").contains(range), "{range}");
        }
        for address in NODE_ADDRESSES {
            assert!(file("Corefile").contains(address), "{address}");
            assert!(file("resolv.conf").contains(address), "{address}");
            assert!(include_str!("../node/enter.sh").contains(address), "{address}");
            assert!(include_str!("../node/addons.yaml").contains(address), "{address}");
        }
        assert!(API.contains(NODE_ADDRESSES[0]));
    }
}
