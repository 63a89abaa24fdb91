//! The bundle that the agent's clients are pointed at: public roots, configured ones, and our own.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// PEM's line length (RFC 7468, 2).
const LINE: usize = 64;

/// PEM of the public roots, then of `files` as they stand, then `own`.
pub(crate) fn with_public_roots(files: &[PathBuf], own: &str) -> Result<String, (PathBuf, io::Error)> {
    let mut pem = String::new();
    for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, left) = rest.split_at(rest.len().min(LINE));
            // Writing to a string cannot fail.
            let _ = writeln!(pem, "{line}");
            rest = left;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| (file.clone(), error))?;
        pem.push_str(text.trim_end());
        pem.push('\n');
    }
    pem.push_str(own);
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_bundle_reads_back_as_every_root_and_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let own = crate::tls::authority::Authority::load_or_create(folder.path()).unwrap();
        let pem = with_public_roots(&[], own.pem()).unwrap();
        let read: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len() + 1);
        assert_eq!(read.last(), Some(own.der()));
    }
}
