//! TLS of the checks: that which only encrypts, and the mesh's mutual one with
//! the workload certificate of a folder. Reads files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;
use webpki::EndEntityCert;

use super::super::target::Peer;

/// What a sidecar has to be offered so that it answers plain HTTP inside its
/// TLS in every mode.
const ALPN: [&[u8]; 3] = [b"istio-http/1.1", b"istio", b"http/1.1"];
/// How long the files are taken for unchanged.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
const LARGEST_FILE: u64 = 256 * 1024;
/// The files of a workload certificate.
const FILES: [&str; 3] = ["cert-chain.pem", "key.pem", "root-cert.pem"];

/// TLS that only encrypts. An address in the cluster has no certificate that
/// could be checked, as the kubelet's probes do not either.
pub(super) fn encrypting() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = client(Whom::Anybody(None))?.with_no_client_auth();
    finish(&mut config, &[b"http/1.1"]);
    Ok(Arc::new(config))
}

/// The same, to find out whether a peer speaks TLS at all: notes whether it
/// showed a certificate.
pub(super) fn listening(heard: &Arc<AtomicBool>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = client(Whom::Anybody(Some(Arc::clone(heard))))?.with_no_client_auth();
    finish(&mut config, &ALPN);
    Ok(Arc::new(config))
}

/// Whether this certificate is of a workload of the peer's namespace. It has
/// exactly one URI, as SPIFFE demands.
pub(super) fn is_of(certificate: &CertificateDer<'_>, peer: &Peer) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    let mut ids = certificate.valid_uri_names();
    ids.next().is_some_and(|id| peer.is(id)) && ids.next().is_none()
}

/// The mesh's mutual TLS, as the files say now.
pub(super) struct MeshTls {
    folder: Option<PathBuf>,
    last: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    at: Option<Instant>,
    files: [Vec<u8>; 3],
    identity: Option<Identity>,
    /// Whether the log says already that it cannot be used.
    told: bool,
}

/// A workload certificate that can be shown.
#[derive(Clone)]
pub(super) struct Identity {
    /// Which one: another number for each that was read.
    pub(super) number: u64,
    pub(super) config: Arc<ClientConfig>,
    chain: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

/// Why there is no certificate to show. Says nothing of what the files hold.
type Fault = &'static str;

impl MeshTls {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            last: Mutex::default(),
        }
    }

    /// What to show, and whom to trust; none where there is no certificate that
    /// is valid now. Files that cannot be used, as while they are being replaced,
    /// leave the last good ones in use for as long as those are valid.
    pub(super) async fn identity(&self) -> Option<Identity> {
        let folder = self.folder.as_ref()?;
        let mut last = self.last.lock().await;
        if last.at.is_some_and(|at| at.elapsed() < READ_AGAIN_AFTER) {
            return last.identity.clone();
        }
        let read = self.read().await;
        last.at = Some(Instant::now());
        let number = last.identity.as_ref().map_or(0, |identity| identity.number) + 1;
        let fresh = match read {
            Ok(files) if files == last.files => None,
            Ok(files) => Some(identity(&files, number).map(|identity| (files, identity))),
            Err(why) => Some(Err(why)),
        };
        let mut fault = None;
        match fresh {
            Some(Ok((files, identity))) => {
                (last.files, last.identity) = (files, Some(identity));
            }
            Some(Err(why)) => fault = Some(why),
            None => {}
        }
        if last
            .identity
            .as_ref()
            .is_some_and(|identity| !is_valid(identity))
        {
            (last.files, last.identity) = Default::default();
            fault = fault.or(Some("the certificate in use has expired"));
        }
        if let Some(why) = fault.filter(|_| !last.told) {
            warn!(folder = %folder.display(), why, "the mesh certificate cannot be used as it is");
        }
        last.told = fault.is_some();
        last.identity.clone()
    }

    async fn read(&self) -> Result<[Vec<u8>; 3], Fault> {
        let mut files: [Vec<u8>; 3] = Default::default();
        let folder = self.folder.as_deref().ok_or("there is no folder")?;
        for (name, content) in FILES.iter().zip(&mut files) {
            let file = tokio::fs::File::open(folder.join(name)).await;
            let file = file.map_err(|_| "a file cannot be opened")?;
            let mut file = file.take(LARGEST_FILE + 1);
            let length = file.read_to_end(content).await;
            if length.map_err(|_| "a file cannot be read")? as u64 > LARGEST_FILE {
                return Err("a file is too large");
            }
        }
        Ok(files)
    }
}

fn identity(files: &[Vec<u8>; 3], number: u64) -> Result<Identity, Fault> {
    let [chain, key, roots] = files;
    let certificates = |pem: &[u8]| -> Result<Vec<_>, Fault> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let all = all.map_err(|_| "a file holds no PEM")?;
        if all.is_empty() {
            Err("a file holds no certificate")
        } else {
            Ok(all)
        }
    };
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "key.pem holds no private key")?;
    let mut trusted = RootCertStore::empty();
    for root in certificates(roots)? {
        trusted
            .add(root)
            .map_err(|_| "root-cert.pem holds no root")?;
    }
    let roots = Arc::new(trusted);
    let mut config = client(Whom::SignedBy(Arc::clone(&roots)))
        .and_then(|builder| builder.with_client_auth_cert(chain.clone(), key))
        .map_err(|_| "key.pem and cert-chain.pem do not fit together")?;
    finish(&mut config, &ALPN);
    let identity = Identity {
        number,
        config: Arc::new(config),
        chain: chain.into(),
        roots,
    };
    if is_valid(&identity) {
        Ok(identity)
    } else {
        Err("the certificate is not valid now by root-cert.pem")
    }
}

/// Whether others with this root would accept the certificate now.
fn is_valid(identity: &Identity) -> bool {
    let [own, others @ ..] = &*identity.chain else {
        return false;
    };
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    EndEntityCert::try_from(own).is_ok_and(|certificate| {
        certificate
            .verify_for_usage(
                algorithms.all,
                &identity.roots.roots,
                others,
                UnixTime::now(),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .is_ok()
    })
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(whom: Whom) -> Result<Builder, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier {
        whom,
        provider: Arc::clone(&provider),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(builder)
}

/// A session is not resumed: the peer's certificate would not be seen again,
/// and another Pod may have its address by then.
fn finish(config: &mut ClientConfig, protocols: &[&[u8]]) {
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
}

/// Whose certificate is accepted.
enum Whom {
    /// Anybody's; notes that there was one.
    Anybody(Option<Arc<AtomicBool>>),
    /// One that a root signed, with no look at its name: that is a URI, and
    /// looked at afterwards.
    SignedBy(Arc<RootCertStore>),
}

struct Verifier {
    whom: Whom,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.whom {
            Whom::Anybody(heard) => {
                if let Some(heard) = heard {
                    heard.store(true, Ordering::Relaxed);
                }
            }
            Whom::SignedBy(roots) => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(own)?,
                roots,
                others,
                now,
                self.provider.signature_verification_algorithms.all,
            )?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
