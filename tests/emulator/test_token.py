# SPDX-License-Identifier: Apache-2.0
"""The token endpoints, asked by google-auth itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import google.auth.transport.requests
import pytest
import requests
from google.auth import exceptions, identity_pool, impersonated_credentials
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from gemini_batch_emulator.token import token_desk
from tests.support.emulator_serving import SCOPE, Served, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as server:
        server.state.configure({"accepted_tokens": []})
        del server.http.headers["Authorization"]
        yield server


def jobs(served: Served, token: str | None) -> int:
    """Status of a list call with *token*."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return served.call("GET", f"/v1/{SCOPE}/batchPredictionJobs", headers=headers).status_code


def refreshed(credentials: object) -> str:
    credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[attr-defined]
    return str(credentials.token)  # type: ignore[attr-defined]


def test_a_signed_assertion_gets_a_token_that_opens_the_api(served: Served) -> None:
    key = served.service_account()
    credentials = service_account.Credentials.from_service_account_info(key, scopes=SCOPES)
    assert jobs(served, refreshed(credentials)) == 200
    entry = served.call("GET", "/_emulator/tokens").json()["tokens"][0]
    assert (entry["principal"], entry["scopes"]) == (key["client_email"], SCOPES)


def test_the_control_route_hands_out_a_key_that_works(served: Served) -> None:
    key = served.call("POST", "/_emulator/service_accounts", json={"email": "a@b.example", "project": "p"}).json()
    assert key["client_email"] == "a@b.example"
    assert key["token_uri"] == served.url + "/token"
    credentials = service_account.Credentials.from_service_account_info(key, scopes=SCOPES)
    assert jobs(served, refreshed(credentials)) == 200


def test_another_key_than_the_account_has_is_refused(served: Served) -> None:
    first, second = served.service_account(), served.service_account(email="second@p.example")
    forged = {**first, "private_key": second["private_key"]}
    credentials = service_account.Credentials.from_service_account_info(forged, scopes=SCOPES)
    with pytest.raises(exceptions.RefreshError, match="invalid_grant"):
        refreshed(credentials)
    assert token_desk(served.state).issued == 0


def test_an_unknown_account_is_refused(served: Served) -> None:
    key = {**served.service_account(), "client_email": "nobody@p.example"}
    with pytest.raises(exceptions.RefreshError, match="account not found"):
        refreshed(service_account.Credentials.from_service_account_info(key, scopes=SCOPES))


def test_no_token_and_a_made_up_token_are_401(served: Served) -> None:
    assert jobs(served, None) == 401
    assert jobs(served, "made-up") == 401
    reply = served.call("GET", f"/v1/{SCOPE}/batchPredictionJobs")
    assert reply.json()["error"]["status"] == "UNAUTHENTICATED"


def test_no_token_passes_until_a_test_says_which_ones_do(served: Served) -> None:
    served.state.configure({"accepted_tokens": None})
    assert jobs(served, None) == 200
    assert served.call("GET", "/storage/v1/b/emulator/o").status_code == 200
    assert served.call("GET", "/bigquery/v2/projects/p/datasets/d/tables/t").status_code == 404
    assert jobs(served, "expired-1") == 401
    assert served.call("GET", "/v1beta/batches").status_code == 200
    for knobs in ({"accepted_keys": ["k"]}, {"accepted_keys": None, "accepted_tokens": ["t"]}):
        served.state.configure(knobs)
        assert served.call("GET", "/v1beta/batches").status_code == 403


def test_a_token_ends_with_its_lifetime(served: Served) -> None:
    served.state.configure({"token_lifetime_seconds": 2})
    credentials = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    token = refreshed(credentials)
    assert jobs(served, token) == 200
    served.state.clock.change(advance=3)
    assert jobs(served, token) == 401
    assert jobs(served, refreshed(credentials)) == 200
    assert token_desk(served.state).issued == 2


def test_all_tokens_can_be_expired_on_demand(served: Served) -> None:
    credentials = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    token = refreshed(credentials)
    served.call("POST", "/_emulator/tokens/expire")
    assert jobs(served, token) == 401


def test_an_authorised_session_renews_an_expired_token_by_itself(served: Served) -> None:
    credentials = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    with google.auth.transport.requests.AuthorizedSession(credentials) as session:
        url = f"{served.url}/v1/{SCOPE}/batchPredictionJobs"
        assert session.get(url).status_code == 200
        token_desk(served.state).expire_all()
        assert session.get(url).status_code == 200
    assert token_desk(served.state).issued == 2


def test_a_user_refresh_token_is_exchanged(served: Served) -> None:
    uri = served.url + "/token"
    good = user_credentials.Credentials(None, refresh_token="r", token_uri=uri, client_id="c", client_secret="s")
    assert jobs(served, refreshed(good)) == 200
    bad = user_credentials.Credentials(None, refresh_token="bad", token_uri=uri, client_id="c", client_secret="s")
    with pytest.raises(exceptions.RefreshError, match="invalid_grant"):
        refreshed(bad)


def test_impersonation_through_delegates(served: Served) -> None:
    source = service_account.Credentials.from_service_account_info(served.service_account(), scopes=SCOPES)
    credentials = impersonated_credentials.Credentials(
        source,
        target_principal="target@p.example",
        target_scopes=SCOPES,
        delegates=["middle@p.example"],
        lifetime=600,
        iam_endpoint_override=f"{served.url}/v1/projects/-/serviceAccounts/target@p.example:generateAccessToken",
    )
    assert jobs(served, refreshed(credentials)) == 200
    last = served.call("GET", "/_emulator/tokens").json()["tokens"][-1]
    assert last["principal"] == "target@p.example"
    assert last["delegates"] == ["middle@p.example"]


def test_impersonation_can_be_denied(served: Served) -> None:
    served.state.configure({"extra": {"impersonation_denied": ["target@p.example"]}, "accepted_tokens": ["t"]})
    reply = served.call(
        "POST",
        "/v1/projects/-/serviceAccounts/target@p.example:generateAccessToken",
        json={"scope": SCOPES},
        headers={"Authorization": "Bearer t"},
    )
    assert reply.status_code == 403


def test_workload_identity_federation_exchanges_a_subject_token(served: Served, tmp_path: object) -> None:
    subject = tmp_path / "subject"  # type: ignore[operator]
    subject.write_text("some-oidc-token")
    info = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": served.url + "/v1/token",
        "credential_source": {"file": str(subject)},
    }
    credentials = identity_pool.Credentials.from_info(info, scopes=SCOPES)
    assert jobs(served, refreshed(credentials)) == 200


def test_the_lifetime_told_to_clients_is_real_time(served: Served) -> None:
    served.state.configure({"speed": 60, "token_lifetime_seconds": 600})
    reply = requests.post(
        served.url + "/token", data={"grant_type": "refresh_token", "refresh_token": "r"}, timeout=10
    ).json()
    assert reply["expires_in"] == 10
