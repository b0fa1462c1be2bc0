//! Who vouches for whom in a run? One authority, made for it and forgotten
//! with it, signs the certificates of servers and users. Pure but for the
//! files of [`Pki::server_files`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The authority.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both as PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// The files of a server on 127.0.0.1.
pub struct ServerFiles {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    pub fn create() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "rig");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
        })
    }

    /// The authority's own certificate as PEM.
    pub fn authority(&self) -> String {
        self.issuer.pem()
    }

    /// A user as Kubernetes reads it: the common name and the organisation.
    pub fn user(&self, name: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A server on 127.0.0.1 and the further names given.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let mut params = CertificateParams::new(
            names
                .iter()
                .map(|&name| name.into())
                .collect::<Vec<String>>(),
        )?;
        params
            .subject_alt_names
            .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A workload of the mesh by its SPIFFE ID, as a client and as a server, for
    /// so long.
    pub fn workload(&self, id: &str, valid: Duration) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + valid).into();
        self.sign(&params)
    }

    /// Writes what Istio writes for a workload into this folder.
    pub fn workload_files(&self, folder: &Path, identity: &Identity) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("cert-chain.pem"), &identity.certificate)?;
        fs::write(folder.join("key.pem"), &identity.key)?;
        fs::write(folder.join("root-cert.pem"), self.authority())?;
        Ok(())
    }

    /// Writes what a server needs as files named after it.
    pub fn server_files(&self, run: &Path, name: &str, names: &[&str]) -> Result<ServerFiles> {
        let identity = self.server(names)?;
        let files = ServerFiles {
            authority: run.join("ca.crt"),
            certificate: run.join(format!("{name}.crt")),
            key: run.join(format!("{name}.key")),
        };
        fs::write(&files.authority, self.authority())?;
        fs::write(&files.certificate, identity.certificate)?;
        fs::write(&files.key, identity.key)?;
        Ok(files)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
