//! Checks over TLS, and in the mesh's mutual TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use catalog_mesh_controller::domain::health::judge::{Failure, Unknown, Verdict};
use catalog_mesh_controller::health::target::{Peer, Scheme};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::bed::{Bed, check};
use crate::peer::Step::{Read, Send};
use crate::peer::{self, take};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/web";
const US: &str = "spiffe://cluster.local/ns/aikernel-infrastructure/sa/catalog-mesh-controller";

/// Who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// A certificate and its key, in PEM.
struct Pair {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, root }
    }

    fn issue(&self, ids: &[&str], ends_in_days: i64) -> Pair {
        let mut params = CertificateParams::default();
        let ids = ids.iter().map(|id| SanType::URI((*id).try_into().unwrap()));
        params.subject_alt_names = ids.collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = std::time::SystemTime::now();
        let day = Duration::from_secs(86_400);
        params.not_before = (now - 9 * day).into();
        let days = day * u32::try_from(ends_in_days.unsigned_abs()).unwrap();
        let end = if ends_in_days < 0 {
            now - days
        } else {
            now + days
        };
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair {
            chain,
            key: key.serialize_pem(),
        }
    }

    /// Writes what a workload of this name finds in its folder.
    fn write(&self, folder: &Path, pair: &Pair) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("cert-chain.pem", &pair.chain);
        write("key.pem", &pair.key);
        write("root-cert.pem", &self.root);
    }

    fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store
            .add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap())
            .unwrap();
        Arc::new(store)
    }
}

/// A server in TLS that counts its handshakes and its requests.
struct TlsPeer {
    address: SocketAddr,
    protocols: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
}

impl TlsPeer {
    /// Shows this certificate, and demands one of that authority, if any.
    async fn new(pair: &Pair, demands: Option<&Authority>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match demands {
            None => builder.with_no_client_auth(),
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.store(), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"istio-http/1.1".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            protocols: Arc::default(),
            requests: Arc::default(),
        };
        let (protocols, requests) = (peer.protocols.clone(), peer.requests.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, requests) = (acceptor.clone(), requests.clone());
                let protocols = protocols.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
                    protocols.lock().unwrap().push(protocol.to_vec());
                    while take(&mut stream, &Read, &requests).await
                        && take(&mut stream, &Send(OK.into()), &requests).await
                    {
                    }
                });
            }
        });
        peer
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn handshakes(&self) -> usize {
        self.protocols.lock().unwrap().len()
    }
}

fn mtls() -> Scheme {
    Scheme::Mtls(Peer {
        trust_domain: "cluster.local".to_owned(),
        namespace: "shop".to_owned(),
    })
}

fn folder(authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    authority.write(folder.path(), &authority.issue(&[US], 9));
    folder
}

#[tokio::test]
async fn https_is_spoken_with_whoever_is_there() {
    let pair = Authority::new().issue(&["https://anything"], -1);
    let tls = TlsPeer::new(&pair, None).await;
    let bare = peer::Peer::new(vec![Send(OK.into()), peer::Step::Hang]).await;
    let closes = peer::Peer::new(vec![]).await;
    let hangs = peer::Peer::new(vec![peer::Step::Hang]).await;
    let bed = Bed::new(None);
    let peers = [tls.address, bare.address, closes.address, hangs.address];
    bed.check(check(Scheme::Https, 1000), peers);
    bed.is(tls.address, Verdict::Healthy).await;
    bed.is(bare.address, Verdict::Unhealthy(Failure::Tls)).await;
    bed.is(closes.address, Verdict::Unhealthy(Failure::Tls))
        .await;
    bed.is(hangs.address, Verdict::Unhealthy(Failure::TimedOut))
        .await;
}

#[tokio::test]
async fn connections_in_tls_are_kept_too() {
    let tls = TlsPeer::new(&Authority::new().issue(&[SHOP], 9), None).await;
    let bed = Bed::new(None);
    bed.check(check(Scheme::Https, 50), [tls.address]);
    while tls.requests() < 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(tls.handshakes(), 1);
    assert_eq!(bed.verdict(tls.address), Verdict::Healthy);
}

#[tokio::test]
async fn a_bare_check_of_a_peer_that_speaks_tls_is_no_failure_of_the_peer() {
    let authority = Authority::new();
    let pair = authority.issue(&[SHOP], 9);
    let open = TlsPeer::new(&pair, None).await;
    let strict = TlsPeer::new(&pair, Some(&authority)).await;
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 500), [open.address, strict.address]);
    let required = Verdict::Unknown(Unknown::MtlsRequired);
    bed.is(open.address, required).await;
    bed.is(strict.address, required).await;
    assert_eq!((open.requests(), strict.requests()), (0, 0));
}

#[tokio::test]
async fn a_sidecar_that_resets_what_is_bare_is_found_to_want_tls() {
    // As Envoy does it: the connection is broken off without a word.
    let authority = Authority::new();
    let inner = TlsPeer::new(&authority.issue(&[SHOP], 9), Some(&authority)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let to = inner.address;
            tokio::spawn(async move {
                let mut first = [0];
                if stream.peek(&mut first).await.unwrap_or(0) == 0 || first[0] != 0x16 {
                    stream.set_zero_linger().unwrap();
                    return;
                }
                let mut inner = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
            });
        }
    });
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 500), [address]);
    bed.is(address, Verdict::Unknown(Unknown::MtlsRequired))
        .await;
}

#[tokio::test]
async fn in_the_mesh_the_right_peer_answers_and_no_other_one_is_asked() {
    let authority = Authority::new();
    let folder = folder(&authority);
    let stranger = Authority::new();
    let right = TlsPeer::new(&authority.issue(&[SHOP], 9), Some(&authority)).await;
    let mut wrong = Vec::new();
    for (ids, issuer) in [
        (vec!["spiffe://cluster.local/ns/other/sa/web"], &authority),
        (vec!["spiffe://elsewhere/ns/shop/sa/web"], &authority),
        (
            vec!["spiffe://cluster.local/ns/shop/sa/web/more"],
            &authority,
        ),
        (
            vec![SHOP, "spiffe://cluster.local/ns/other/sa/web"],
            &authority,
        ),
        (
            vec!["spiffe://cluster.local/ns/other/sa/web", SHOP],
            &authority,
        ),
        (vec![], &authority),
        (vec![SHOP], &stranger),
    ] {
        wrong.push(TlsPeer::new(&issuer.issue(&ids, 9), None).await);
    }
    let expired = TlsPeer::new(&authority.issue(&[SHOP], -1), None).await;
    let bed = Bed::new(Some(folder.path()));
    let all = wrong
        .iter()
        .chain([&right, &expired])
        .map(|peer| peer.address);
    bed.check(check(mtls(), 500), all);
    bed.is(right.address, Verdict::Healthy).await;
    assert_eq!(right.protocols.lock().unwrap()[0], b"istio-http/1.1");
    bed.is(expired.address, Verdict::Unhealthy(Failure::Tls))
        .await;
    for peer in &wrong {
        bed.is(peer.address, Verdict::Unhealthy(Failure::WrongPeer))
            .await;
        assert_eq!(peer.requests(), 0);
    }
    assert_eq!(expired.requests(), 0);
}

#[tokio::test]
async fn without_a_certificate_that_is_valid_nothing_is_said_about_anybody() {
    let authority = Authority::new();
    let none = Verdict::Unknown(Unknown::NoCertificate);
    let peer = TlsPeer::new(&authority.issue(&[SHOP], 9), Some(&authority)).await;
    let empty = tempfile::tempdir().unwrap();
    let expired = tempfile::tempdir().unwrap();
    authority.write(expired.path(), &authority.issue(&[US], -1));
    let broken = folder(&authority);
    std::fs::write(broken.path().join("key.pem"), authority.issue(&[US], 9).key).unwrap();
    let huge = folder(&authority);
    std::fs::write(huge.path().join("root-cert.pem"), vec![b'x'; 1 << 20]).unwrap();
    let unlike = tempfile::tempdir().unwrap();
    let stranger = Authority::new();
    authority.write(unlike.path(), &stranger.issue(&[US], 9));
    for path in [&empty, &expired, &broken, &huge, &unlike] {
        let bed = Bed::new(Some(path.path()));
        bed.check(check(mtls(), 500), [peer.address]);
        assert_eq!(bed.judged(peer.address).await, none, "{path:?}");
    }
    let bed = Bed::new(None);
    bed.check(check(mtls(), 500), [peer.address]);
    assert_eq!(bed.judged(peer.address).await, none);
    assert_eq!(peer.handshakes(), 0);
}

#[tokio::test]
async fn certificates_that_are_replaced_are_used_and_half_of_a_new_one_is_not() {
    let [old, new] = [Authority::new(), Authority::new()];
    let folder = folder(&old);
    let path = folder.path();
    let before = TlsPeer::new(&old.issue(&[SHOP], 9), Some(&old)).await;
    let after = TlsPeer::new(&new.issue(&[SHOP], 9), Some(&new)).await;
    let bed = Bed::new(Some(path));
    bed.check(check(mtls(), 200), [before.address, after.address]);
    bed.is(before.address, Verdict::Healthy).await;
    bed.is(after.address, Verdict::Unhealthy(Failure::WrongPeer))
        .await;

    // Half of what is new does not fit: what was there stays in use.
    let next = new.issue(&[US], 9);
    std::fs::write(path.join("key.pem"), &next.key).unwrap();
    let asked = before.requests();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(before.requests() > asked);
    assert_eq!(bed.verdict(before.address), Verdict::Healthy);

    new.write(path, &next);
    bed.is(after.address, Verdict::Healthy).await;
    bed.is(before.address, Verdict::Unhealthy(Failure::WrongPeer))
        .await;

    // What cannot be used does not replace what can.
    new.write(path, &new.issue(&[US], -1));
    let asked = after.requests();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(after.requests() > asked);
    assert_eq!(bed.verdict(after.address), Verdict::Healthy);
}
