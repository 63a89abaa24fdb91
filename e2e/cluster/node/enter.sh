# The first process of the cluster's namespaces: arranges the file system and the network, says who it is, and becomes `pause`.
# Everything that it mounts and makes lives in these namespaces alone, and goes with them.
#
# usage: enter.sh FOLDER
set -eu

# /proc is still the host's here, and so is our number in it. The redirection is the shell's own, so `self` is the shell.
read -r number _ </proc/self/stat

# FOLDER comes first, at a short name that is always there: what is mounted next may hide where it really lies.
mount --bind "$1" /mnt
mount --bind /mnt/var/lib /var/lib
mount --bind /mnt/var/log /var/log
mount --bind /mnt/tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t proc proc /proc
# The node itself asks the cluster's own server, or a pull from a registry hangs where it should fail.
if [ -f /etc/resolv.conf ]; then
	mount --bind /mnt/config/resolv.conf /etc/resolv.conf
fi
# Volumes with mount propagation need a shared tree; shared among the mounts of these namespaces, that is.
mount --make-rshared /

# No duplicate address detection: nobody else is on this wire, and it would cost every address a second.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
if ! [ -d /proc/sys/net/bridge ] && ! modprobe br_netfilter; then
	echo 'this kernel has no br_netfilter, without which Services do not work between pods' >&2
	exit 1
fi
# Pods share a bridge. Without this an answer from pod to pod never passes the node, and Services look broken.
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables

ip link set lo up
# A bridge with nothing in it keeps the node's addresses; kubelet and kube-proxy look for a default route as well.
ip link add node type bridge
ip link set node up
ip address add 198.19.0.1/24 dev node
ip address add 2001:2:0:c::1/64 dev node nodad
# The world outside has addresses that are not the node's own.
ip address add 198.19.0.9/24 dev node
ip address add 2001:2:0:c::9/64 dev node nodad
ip route add default dev node
ip -6 route add default dev node

echo "$number" >/mnt/node.pid.new
mv /mnt/node.pid.new /mnt/node.pid
exec /mnt/bin/pause
