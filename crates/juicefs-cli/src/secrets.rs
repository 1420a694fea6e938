//! Keeping passwords out of logs.

/// The address with the password of its authority replaced by `****`.
pub(crate) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority_end = rest.rfind('@');
    let Some((user, host)) = authority_end.map(|at| (&rest[..at], &rest[at..])) else {
        return url.to_owned();
    };
    match user.split_once(':') {
        Some((name, password)) if !password.is_empty() => format!("{scheme}://{name}:****{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passwords_go() {
        let cases = [
            ("redis://:secret@host/1", "redis://:****@host/1"),
            ("mysql://u:p@ss:w@(host:3306)/db", "mysql://u:****@(host:3306)/db"),
            ("redis://u:@host/1", "redis://u:@host/1"),
            ("postgres://u@host/db", "postgres://u@host/db"),
            ("sqlite3://a.db", "sqlite3://a.db"),
            ("host/1", "host/1"),
        ];
        for (url, masked) in cases {
            assert_eq!(mask_url(url), masked);
        }
    }
}
