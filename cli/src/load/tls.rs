//! How the users' TLS is set up: what they trust and which protocols they offer; and what a failed handshake was
//! about.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use serde::{Deserialize, Serialize};

use super::connecting::HttpVersion;
use super::outcome::Failure;
use super::plan::PlanError;

/// The protocol's name in ALPN (RFC 9113, section 3.1).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What the users trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TlsOptions {
    /// A PEM file of certificate authorities to trust beside Mozilla's.
    pub(crate) ca: Option<PathBuf>,
    /// Trust whatever certificate is shown.
    pub(crate) insecure_skip_verify: bool,
}

/// The configuration that all users share. Sessions are never resumed: each user is a client of its own, and a
/// resumed handshake would hide what a fresh one costs.
///
/// # Errors
/// The file of authorities cannot be read, or holds no certificate.
pub(super) fn client_config(options: &TlsOptions, http: HttpVersion) -> Result<Arc<ClientConfig>, PlanError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3");
    // Read in any case: a file that is named and unusable is a mistake.
    let roots = roots(options.ca.as_deref())?;
    let builder = if options.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match http {
        HttpVersion::Auto => vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()],
        HttpVersion::Http1 => vec![ALPN_HTTP1.to_vec()],
        HttpVersion::Http2 => vec![ALPN_HTTP2.to_vec()],
    };
    Ok(Arc::new(config))
}

/// The same trust for who only asks how things stand.
///
/// # Errors
/// As for the users.
pub(crate) fn control_tls(options: &TlsOptions) -> Result<Arc<ClientConfig>, PlanError> {
    client_config(options, HttpVersion::Http1)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, PlanError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca else { return Ok(roots) };
    let flaw = |problem: String| PlanError::Authorities { path: path.to_owned(), problem };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| flaw(error.to_string()))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| flaw(error.to_string()))?;
        roots.add(certificate).map_err(|error| flaw(error.to_string()))?;
        count += 1;
    }
    if count == 0 {
        return Err(flaw("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// The name that the server's certificate must be for.
pub(super) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// Accepts any certificate, but not that the server lacks its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The class of TLS's own errors; `None` if this is not one.
pub(super) fn failure_of(error: &io::Error) -> Option<Failure> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        // A trusted authority of the same name, but with another key, is another authority.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Failure::TlsUnknownAuthority
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Failure::TlsHostname,
        Error::InvalidCertificate(_) => Failure::TlsCertificate,
        _ => Failure::TlsFailed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_found_before_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let options = TlsOptions { ca: Some(path.clone()), insecure_skip_verify: true };
            client_config(&options, HttpVersion::Auto).unwrap_err().to_string()
        };
        let block =
            |inner: &str| format!("-----BEGIN CERTIFICATE-----\n{inner}\n-----END CERTIFICATE-----\n");
        for (text, part) in [
            (None, "No such file"),
            (Some(String::new()), "no certificate"),
            (Some("text".to_owned()), "no certificate"),
            (Some(block("AAAA")), "certificate"),
            (Some(block("!")), "base64"),
        ] {
            let error = error(text.as_deref());
            assert!(error.contains(part) && error.contains("ca.pem"), "{text:?}: {error}");
        }
    }

    #[test]
    fn classes_of_handshake_errors() {
        use CertificateError::{BadSignature, Expired, NotValidForName, UnknownIssuer};
        for (error, failure) in [
            (Error::InvalidCertificate(UnknownIssuer), Failure::TlsUnknownAuthority),
            (Error::InvalidCertificate(BadSignature), Failure::TlsUnknownAuthority),
            (Error::InvalidCertificate(NotValidForName), Failure::TlsHostname),
            (Error::InvalidCertificate(Expired), Failure::TlsCertificate),
            (Error::DecryptError, Failure::TlsFailed),
        ] {
            assert_eq!(failure_of(&io::Error::other(error)), Some(failure));
        }
        assert_eq!(failure_of(&io::Error::other("else")), None);
        assert_eq!(failure_of(&io::ErrorKind::UnexpectedEof.into()), None);
    }
}
