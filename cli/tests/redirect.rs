//! Redirect on the real kernel, as this user and as an ordinary one. This program is its own helper, and its own
//! COMMAND where a test needs one: a process of several threads cannot enter a user namespace, so it has no harness
//! that starts threads before `main`.

#[path = "../src/capture/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the binary uses the rest, and its unit tests run there")]
mod capture;
#[path = "../src/say.rs"]
#[allow(dead_code, reason = "the helper only tells")]
mod say;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use capture::redirect::{Namespace, Redirect, Step, Unsupported, run_helper};
use libtest_mimic::{Arguments, Failed, Trial};

/// Far more than a loopback connection takes; a test that fails must not hang.
const PATIENCE: Duration = Duration::from_secs(20);
const PROBE: &str = "__probe";
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    if let Some(code) = run_helper() {
        return code;
    }
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(PROBE) {
        return if probe(&args[2..]) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let trial = |name: &str, test: fn()| Trial::test(name, move || catch(test));
    let mut trials = vec![
        trial("connects_arrive_with_their_original_destination", connects_arrive),
        trial("names_are_asked_of_our_responder_whatever_server_is_named", names_are_asked_of_us),
        trial("a_name_from_dns_leads_to_the_listener", a_name_leads_to_the_listener),
        trial("udp_other_than_names_cannot_leave", udp_cannot_leave),
        trial("command_is_its_caller", command_is_its_caller),
        trial("command_cannot_change_the_rules", command_cannot_change_the_rules),
        trial("exit_status_and_signals_are_commands", exit_status_is_commands),
        trial("the_environment_is_exactly_what_was_given", the_environment_is_exact),
        trial("a_dropped_namespace_ends_its_helper", dropped_ends),
        trial("a_kernel_that_refuses_is_reported_with_a_remedy", refusal_names_the_remedy),
    ];
    if rustix::process::geteuid().is_root() {
        trials.push(trial("all_of_this_holds_for_an_ordinary_user", holds_for_an_ordinary_user));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn catch(test: fn()) -> Result<(), Failed> {
    test();
    Ok(())
}

fn me() -> PathBuf {
    std::env::current_exe().unwrap()
}

struct Rig {
    namespace: Namespace,
    _folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let redirect = Redirect { helper: me(), folder: folder.path().into() };
    Rig { namespace: redirect.prepare().unwrap(), _folder: folder }
}

fn path_env() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())]
}

fn words(command: &[&str]) -> Vec<OsString> {
    command.iter().map(Into::into).collect()
}

fn probe_command(args: &[&str]) -> Vec<OsString> {
    let mut command = vec![me().into_os_string(), PROBE.into()];
    command.extend(words(args));
    command
}

impl Rig {
    /// Runs COMMAND while `serve` handles what arrives at the sockets.
    fn run(mut self, command: &[OsString], serve: impl FnOnce(&Sockets)) -> ExitStatus {
        let sockets =
            Sockets { listeners: std::mem::take(&mut self.namespace.listeners), dns_udp: std::mem::take(&mut self.namespace.dns_udp) };
        let mut child = self.namespace.spawn(command, &path_env()).unwrap();
        serve(&sockets);
        child.wait().unwrap()
    }
}

struct Sockets {
    listeners: Vec<TcpListener>,
    dns_udp: Vec<UdpSocket>,
}

impl Sockets {
    fn of(&self, ip: IpAddr) -> usize {
        usize::from(ip.is_ipv6())
    }

    /// Accepts one connection of the family of `expect`, answers it as HTTP, and checks where it was meant to go.
    fn serve_http(&self, expect: SocketAddr) {
        let listener = socket2::Socket::from(self.listeners[self.of(expect.ip())].try_clone().unwrap());
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, _) = listener.accept().expect("nothing was redirected");
        let original = if expect.is_ipv4() { stream.original_dst_v4() } else { stream.original_dst_v6() };
        assert_eq!(original.unwrap().as_socket(), Some(expect));
        let mut stream = TcpStream::from(stream);
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
    }

    /// Answers questions about `name` with `address` for as long as any come: resolvers ask for both families at once, in
    /// either order, and wait for both answers.
    fn serve_name(&self, name: &'static str, address: std::net::Ipv4Addr) {
        let socket = self.dns_udp[0].try_clone().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                socket.send_to(&answer(&query[..length], name, address), from).unwrap();
            }
        });
    }
}

/// `address` to a question for IPv4, nothing to others.
fn answer(query: &[u8], name: &str, address: std::net::Ipv4Addr) -> Vec<u8> {
    let wire: Vec<u8> = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    assert!(query[12..].starts_with(&wire), "{query:?}");
    let question = 12 + wire.len() + 1 + 4;
    let is_a = query[question - 3] == 1;
    let mut answer = query[..question].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// What the tests have COMMAND do.
fn probe(args: &[String]) -> bool {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["send-refused", address] => {
            let address: SocketAddr = address.parse().unwrap();
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.send_to(b"x", address).is_err()
        }
        ["ask", address] => UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"question", address).is_ok(),
        ["is", uid, gid] => {
            let same = |id: u32, text: &str| text.parse() == Ok(id);
            same(rustix::process::geteuid().as_raw(), uid) && same(rustix::process::getegid().as_raw(), gid)
        }
        _ => false,
    }
}

fn connects_arrive() {
    for address in ["127.0.0.1:8123", "1.2.3.4:80", "[::1]:8123", "[2001:db8::7]:443"] {
        let expect: SocketAddr = address.parse().unwrap();
        let url = format!("http://{address}/");
        let command = words(&["curl", "-gsS", "--noproxy", "*", "-m", "10", "-o", "/dev/null", &url]);
        let status = rig().run(&command, |sockets| sockets.serve_http(expect));
        assert!(status.success(), "{address}: {status}");
    }
}

fn names_are_asked_of_us() {
    let status = rig().run(&probe_command(&["ask", "192.0.2.53:53"]), |sockets| {
        let mut question = [0; 64];
        sockets.dns_udp[0].set_read_timeout(Some(PATIENCE)).unwrap();
        let (length, _) = sockets.dns_udp[0].recv_from(&mut question).expect("no question came");
        assert_eq!(&question[..length], b"question");
    });
    assert!(status.success());
}

fn a_name_leads_to_the_listener() {
    let command = words(&["curl", "-sS", "--noproxy", "*", "-m", "10", "http://pay.example/"]);
    let status = rig().run(&command, |sockets| {
        sockets.serve_name("pay.example", [203, 0, 113, 9].into());
        sockets.serve_http("203.0.113.9:80".parse().unwrap());
    });
    assert!(status.success(), "{status}");
}

fn udp_cannot_leave() {
    for address in ["1.1.1.1:443", "[2001:db8::7]:443"] {
        assert!(rig().run(&probe_command(&["send-refused", address]), |_| {}).success(), "{address}");
    }
}

fn command_is_its_caller() {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let gid = rustix::process::getegid().as_raw().to_string();
    assert!(rig().run(&probe_command(&["is", &uid, &gid]), |_| {}).success());
}

fn command_cannot_change_the_rules() {
    let script = "nft flush ruleset 2>/dev/null && exit 1; nft delete table inet kybernis 2>/dev/null && exit 2; \
                  umount /etc/resolv.conf 2>/dev/null && exit 3; ip link set lo down 2>/dev/null && exit 4; \
                  exec curl -sS --noproxy '*' -m 10 -o /dev/null http://1.2.3.4/";
    let status = rig().run(&words(&["sh", "-c", script]), |sockets| sockets.serve_http("1.2.3.4:80".parse().unwrap()));
    assert!(status.success(), "{status}");
}

fn exit_status_is_commands() {
    assert_eq!(rig().run(&words(&["sh", "-c", "exit 7"]), |_| {}).code(), Some(7));
    assert_eq!(rig().run(&words(&["sh", "-c", "kill -TERM $$"]), |_| {}).signal(), Some(15));
    assert_eq!(rig().run(&words(&["kybernis-no-such-program"]), |_| {}).code(), Some(127));
    assert_eq!(rig().run(&words(&["/etc/hostname-is-no-program/"]), |_| {}).code(), Some(127));
    assert_eq!(rig().run(&words(&["/etc/passwd"]), |_| {}).code(), Some(126));
}

fn the_environment_is_exact() {
    let script = "[ \"$A\" = 'b=c d' ] && [ -z \"${HOME+set}${CARGO+set}\" ]";
    let mut env = path_env();
    env.push(("A".into(), "b=c d".into()));
    let mut child = rig().namespace.spawn(&words(&["sh", "-c", script]), &env).unwrap();
    assert!(child.wait().unwrap().success());
}

fn dropped_ends() {
    let rig = rig();
    let listener = rig.namespace.listeners[0].try_clone().unwrap();
    drop(rig);
    // The socket outlives the helper: a supervisor may hand it to one sidecar after another.
    assert!(listener.local_addr().is_ok());
}

fn refusal_names_the_remedy() {
    if std::env::var_os("KYB_TEST_REFUSED").is_some() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Redirect { helper: me(), folder: folder.path().into() }.prepare().unwrap_err();
        assert!(matches!(refused, Unsupported::Refused { step: Step::Unshare, .. }), "{refused:?}");
        assert!(refused.to_string().contains("max_user_namespaces"), "{refused}");
        return;
    }
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --exact a_kernel_that_refuses_is_reported_with_a_remedy";
    let mut unshare = Command::new("unshare");
    unshare.args(["-Ur", "sh", "-c", script]).arg(me()).env("KYB_TEST_REFUSED", "1");
    let output = unshare.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let helper = Redirect { helper: "/bin/false".into(), folder: std::env::temp_dir() };
    assert!(matches!(helper.prepare(), Err(Unsupported::Refused { step: Step::Helper, .. })));
}

fn holds_for_an_ordinary_user() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    open(folder.path());
    let copy = folder.path().join("redirect");
    std::fs::copy(me(), &copy).unwrap();
    open(&copy);
    let mut run = Command::new(&copy);
    run.uid(NOBODY).gid(NOBODY).current_dir("/").env("TMPDIR", folder.path()).arg("--test-threads=1");
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("10 passed"), "{said}");
}
