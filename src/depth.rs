//! Says whether JSON nests too deep, before anything reads it: bytes and a limit in, yes or no out.

/// Counts brackets outside of strings. Our own readers bound their recursion or have none; whoever reads the record next may not.
pub fn nests_deeper_than(json: &[u8], limit: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_of_strings_count() {
        let check = |json: &str, depth: usize| {
            assert!(!nests_deeper_than(json.as_bytes(), depth), "{json} {depth}");
            assert!(depth == 0 || nests_deeper_than(json.as_bytes(), depth - 1), "{json} {depth}");
        };
        check("7", 0);
        check(r#"{"a":[{}],"b":[]}"#, 3);
        check(r#"["[[[[", "\"[[["]"#, 1);
        check("]]]][[", 2);
    }
}
