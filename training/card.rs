pub fn card(_: &crate::evaluate::Evaluation) -> String { String::new() }
