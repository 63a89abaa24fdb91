//! The responder on real sockets.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures::future::{BoxFuture, FutureExt as _};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable as _;
use tokio::task::JoinHandle;

use super::*;
use crate::resolve::{ResolveError, Resolved};

/// A name says what becomes of it.
struct Names;

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        async move {
            let addresses = match name {
                "pay.example" => vec![Ipv4Addr::new(203, 0, 113, 9).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into()],
                "v6.example" => vec![Ipv6Addr::LOCALHOST.into()],
                "many.example" => (0..40).map(|n| Ipv4Addr::new(203, 0, 113, n).into()).collect(),
                "away.example" => return Err(ResolveError::Failed { name: name.into(), source: io::ErrorKind::TimedOut.into() }),
                "silent.example" => std::future::pending().await,
                _ => return Err(ResolveError::NotFound { name: name.into() }),
            };
            Ok(Resolved { canonical: name.into(), addresses })
        }
        .boxed()
    }
}

struct Rig {
    udp: SocketAddr,
    tcp: SocketAddr,
    client: tokio::net::UdpSocket,
    closing: CancellationToken,
    served: JoinHandle<io::Result<()>>,
}

async fn rig() -> Rig {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let closing = CancellationToken::new();
    let served = tokio::spawn(serve(vec![udp], vec![tcp], Arc::new(Names), closing.clone()));
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    Rig { udp: udp_at, tcp: tcp_at, client, closing, served }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl Rig {
    async fn send(&self, bytes: &[u8]) {
        self.client.send_to(bytes, self.udp).await.unwrap();
    }

    async fn receive(&self) -> Message {
        let mut buffer = [0; 4096];
        let (length, _) = self.client.recv_from(&mut buffer).await.unwrap();
        Message::from_bytes(&buffer[..length]).unwrap()
    }

    async fn ask(&self, message: &Message) -> Message {
        self.send(&message.to_vec().unwrap()).await;
        let reply = self.receive().await;
        assert_eq!((reply.metadata.id, reply.metadata.message_type), (7, MessageType::Response));
        reply
    }

    async fn ask_tcp(&self, stream: &mut TcpStream, message: &Message) -> Message {
        let bytes = message.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        let _ = self;
        Message::from_bytes(&reply).unwrap()
    }
}

fn addresses(reply: &Message) -> Vec<String> {
    let address = |data: &RData| match data {
        RData::A(a) => a.to_string(),
        RData::AAAA(a) => a.to_string(),
        other => panic!("{other:?}"),
    };
    reply.answers.iter().map(|record| address(&record.data)).collect()
}

#[tokio::test]
async fn each_question_gets_what_the_resolver_knows() {
    let rig = rig().await;
    for (name, kind, code, expect) in [
        ("pay.example.", RecordType::A, ResponseCode::NoError, &["203.0.113.9"][..]),
        ("pay.example.", RecordType::AAAA, ResponseCode::NoError, &["2001:db8::7"]),
        ("PAY.Example.", RecordType::A, ResponseCode::NoError, &["203.0.113.9"]),
        ("v6.example.", RecordType::A, ResponseCode::NoError, &[]),
        ("pay.example.", RecordType::TXT, ResponseCode::NoError, &[]),
        ("9.113.0.203.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, &[]),
        ("nowhere.example.", RecordType::A, ResponseCode::NXDomain, &[]),
        ("127.0.0.1.", RecordType::A, ResponseCode::NXDomain, &[]),
        ("*.example.", RecordType::A, ResponseCode::NXDomain, &[]),
        (".", RecordType::A, ResponseCode::NXDomain, &[]),
        ("away.example.", RecordType::A, ResponseCode::ServFail, &[]),
    ] {
        let reply = rig.ask(&query(name, kind)).await;
        assert_eq!(
            (reply.metadata.response_code, addresses(&reply).as_slice()),
            (code, &expect.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()[..]),
            "{name} {kind}"
        );
        assert!(reply.metadata.recursion_available);
        // Clients that vary the case of a name to tell forgeries compare it (draft-vixie-dnsext-dns0x20).
        assert_eq!(reply.queries[0].name().to_ascii(), name);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_a_datagram_is_cut_and_given_whole_over_tcp() {
    let rig = rig().await;
    let plain = query("many.example.", RecordType::A);
    let cut = rig.ask(&plain).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());

    let mut roomy = plain.clone();
    roomy.set_edns(Edns::new());
    roomy.edns.as_mut().unwrap().set_max_payload(4096);
    let whole = rig.ask(&roomy).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 40));
    assert!(whole.edns.is_some());

    let mut stream = TcpStream::connect(rig.tcp).await.unwrap();
    for _ in 0..2 {
        let whole = rig.ask_tcp(&mut stream, &plain).await;
        assert_eq!((whole.metadata.truncation, whole.answers.len(), whole.edns.is_some()), (false, 40, false));
    }
}

#[tokio::test]
async fn what_is_no_proper_query_is_told_so_or_dropped() {
    let rig = rig().await;
    let proper = query("pay.example.", RecordType::A).to_vec().unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = proper.clone();
        bytes[at] = byte;
        bytes
    };
    // Dropped: what has no header, and what is itself an answer.
    rig.send(&proper[..11]).await;
    rig.send(&changed(2, 0x80)).await;
    for (bytes, code) in [
        (proper[..proper.len() - 1].to_vec(), ResponseCode::FormErr),
        (changed(5, 0), ResponseCode::FormErr),
        (changed(4, 0xff), ResponseCode::FormErr),
        (changed(2, 0x28), ResponseCode::NotImp),
        (changed(proper.len() - 1, 3), ResponseCode::Refused),
    ] {
        rig.send(&bytes).await;
        // The answer to this one, not to one that should have been dropped.
        assert_eq!(rig.receive().await.metadata.response_code, code);
    }
    let mut newer = query("pay.example.", RecordType::A);
    newer.set_edns(Edns::new());
    newer.edns.as_mut().unwrap().set_version(1);
    let reply = rig.ask(&newer).await;
    assert_eq!((reply.edns.map(|edns| edns.rcode_high()), reply.answers.len()), (Some(1), 0));
    assert_eq!(DNSClass::IN, reply.queries[0].query_class());
}

#[tokio::test]
async fn a_lookup_that_hangs_holds_up_nobody_else_and_ends_with_the_responder() {
    let rig = rig().await;
    for _ in 0..3 {
        rig.send(&query("silent.example.", RecordType::A).to_vec().unwrap()).await;
    }
    assert_eq!(addresses(&rig.ask(&query("pay.example.", RecordType::A)).await), ["203.0.113.9"]);
    let idle = TcpStream::connect(rig.tcp).await.unwrap();
    rig.closing.cancel();
    rig.served.await.unwrap().unwrap();
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_takes_too_long_is_a_failure_of_the_server() {
    let bytes = query("silent.example.", RecordType::A).to_vec().unwrap();
    let reply = answer(&bytes, &Names, Transport::Udp).await.unwrap();
    assert_eq!(Message::from_bytes(&reply).unwrap().metadata.response_code, ResponseCode::ServFail);
}

/// Counts what is looked up.
struct Counted(std::sync::Mutex<Vec<String>>);

impl Resolve for Counted {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        self.0.lock().unwrap().push(name.to_owned());
        async move { Ok(Resolved { canonical: name.into(), addresses: vec![Ipv4Addr::LOCALHOST.into()] }) }.boxed()
    }
}

#[tokio::test]
async fn a_name_that_no_rule_could_allow_is_not_looked_up() {
    let counted = Arc::new(Counted(std::sync::Mutex::default()));
    let may_reach: reach::MayReach = Arc::new(|host| async move { host.as_str() == "pay.example" }.boxed());
    let guarded = reach::WithinReach::new(counted.clone(), may_reach);
    for (name, code) in [
        ("PAY.example.", ResponseCode::NoError),
        ("localhost.", ResponseCode::NoError),
        ("s3cr3t.evil.example.", ResponseCode::NXDomain),
        ("x.pay.example.", ResponseCode::NXDomain),
    ] {
        let bytes = query(name, RecordType::A).to_vec().unwrap();
        let reply = answer(&bytes, &guarded, Transport::Udp).await.unwrap();
        assert_eq!(Message::from_bytes(&reply).unwrap().metadata.response_code, code, "{name}");
    }
    assert!(matches!(guarded.resolve("-odd.pay.example").await, Err(ResolveError::OutOfReach { .. })));
    assert_eq!(*counted.0.lock().unwrap(), ["pay.example", "localhost"]);
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_policy_no_name_is_looked_up() {
    let counted = Arc::new(Counted(std::sync::Mutex::default()));
    let guarded = reach::WithinReach::new(counted.clone(), Arc::new(|_| std::future::pending().boxed()));
    let bytes = query("pay.example.", RecordType::A).to_vec().unwrap();
    let reply = answer(&bytes, &guarded, Transport::Udp).await.unwrap();
    assert_eq!(Message::from_bytes(&reply).unwrap().metadata.response_code, ResponseCode::ServFail);
    assert!(matches!(guarded.resolve("pay.example").await, Err(ResolveError::Failed { .. })));
    assert!(counted.0.lock().unwrap().is_empty());
}
