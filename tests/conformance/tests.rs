use super::*;
use serde_json::json;

#[test]
fn only_what_is_expected_matters() {
    let answer = json!({"a": 1, "b": [1, 2], "c": {"d": "text"}});
    for good in [json!({}), json!({"a": 1.0}), json!({"c": {"d": "*"}}), json!({"x": null})] {
        assert!(matches(&good, &answer, false), "{good}");
    }
    assert!(!matches(&json!({"b": [2, 1]}), &answer, false));
    assert!(matches(&json!({"b": [2, 1]}), &answer, true));
    assert!(!matches(&json!({"b": [2, 2]}), &answer, true));
    assert!(!matches(&json!({"x": 1}), &answer, false));
}
