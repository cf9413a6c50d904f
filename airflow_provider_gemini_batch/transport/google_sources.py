# SPDX-License-Identifier: Apache-2.0
"""From a connection's fields to google-auth's objects, and from google-auth's errors to ours."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_gemini_batch.connection.form import label_of
from airflow_provider_gemini_batch.errors import AuthError, ConfigurationError, GeminiBatchError, TransportError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials as GoogleCredentials

    from airflow_provider_gemini_batch.connection.settings import ConnectionSettings


def google_credentials(settings: ConnectionSettings, send: Any) -> GoogleCredentials:
    """Build google-auth's object for what the connection names."""
    source = _source_credentials(settings, send)
    if not settings.impersonation_chain:
        return source
    from google.auth import impersonated_credentials

    # The last account is the one acted as; each before it may make tokens for the next.
    *delegates, target = settings.impersonation_chain
    endpoint = None
    if settings.iam_base_url:
        account = quote(target, safe="@")
        endpoint = f"{settings.iam_base_url}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    # https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken
    names = [f"projects/-/serviceAccounts/{account}" for account in delegates]
    return impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        source_credentials=source,
        target_principal=target,
        target_scopes=list(settings.scopes),
        delegates=names or None,
        iam_endpoint_override=endpoint,
    )


def _source_credentials(settings: ConnectionSettings, send: Any) -> GoogleCredentials:
    import google.auth
    from google.oauth2 import service_account

    scopes = list(settings.scopes)
    if settings.keyfile_dict is not None or settings.key_path:
        if settings.keyfile_dict is not None:
            key = json.loads(settings.keyfile_dict.reveal())
        else:
            key = _json_file(settings.key_path, "key_path")
        return service_account.Credentials.from_service_account_info(key, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    if settings.credential_config is not None or settings.credential_config_file:
        if settings.credential_config is not None:
            config = json.loads(settings.credential_config.reveal())
        else:
            config = _json_file(settings.credential_config_file, "credential_config_file")
        return _federated(config, scopes)
    credentials, _ = google.auth.default(scopes=scopes, request=send)
    return credentials


def _federated(config: Mapping[str, Any], scopes: list[str]) -> GoogleCredentials:
    """
    Build credentials from a workload identity federation file.

    google-auth's general loader is not used: it looks the project up over the network, and warns that it takes files
    of any kind. The kinds: https://google.aip.dev/auth/4117.
    """
    if config.get("type") != "external_account":
        raise ConfigurationError(
            f"{label_of('credential_config_file')}: is of type {str(config.get('type'))!r}, not external_account; a "
            f"service account's key belongs into {label_of('keyfile_dict')} or {label_of('key_path')}."
        )
    source = config.get("credential_source")
    if config.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        from google.auth import aws

        return aws.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    if isinstance(source, Mapping) and source.get("executable") is not None:
        from google.auth import pluggable

        return pluggable.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]
    from google.auth import identity_pool

    return identity_pool.Credentials.from_info(config, scopes=scopes)  # type: ignore[no-any-return, no-untyped-call]


def _json_file(path: str, name: str) -> dict[str, Any]:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise ConfigurationError(
            f"{label_of(name)}: {path} cannot be read on host {socket.gethostname()}: {reason}. The file must lie on "
            "every worker and triggerer."
        ) from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{label_of(name)}: {path} is not a JSON object; put the downloaded file there.")
    return found


def credential_name(settings: ConnectionSettings) -> str:
    """Name the credential in use, for messages."""
    if settings.keyfile_dict is not None:
        email = json.loads(settings.keyfile_dict.reveal()).get("client_email", "unknown")
        name = f"The service account key of {email} ({label_of('keyfile_dict')})"
    elif settings.key_path:
        name = f"The service account key in {settings.key_path} ({label_of('key_path')})"
    elif settings.credential_config is not None or settings.credential_config_file:
        name = f"The workload identity federation of {label_of('credential_config_file')}"
    else:
        name = "The application default credentials of this machine"
    if settings.impersonation_chain:
        name += f", acting as {settings.impersonation_chain[-1]} ({label_of('impersonation_chain')}),"
    return name


def way_out(settings: ConnectionSettings) -> str:
    """Say what to do if no token could be got by these settings."""
    if settings.impersonation_chain:
        return (
            "Each account of the chain needs the role Service Account Token Creator on the next one, and the project "
            "needs the IAM Service Account Credentials API (iamcredentials.googleapis.com)."
        )
    if settings.keyfile_dict is not None or settings.key_path:
        return (
            "Check that the account exists, that the key was not deleted, that its token_uri is right and that this "
            "machine's clock is; or make a new key."
        )
    if settings.credential_config is not None or settings.credential_config_file:
        return "Check the pool, its provider, and that the subject token which the file points to is current."
    return (
        f"Run `gcloud auth application-default login`, run on a machine with a service account, or fill in "
        f"{label_of('keyfile_dict')} or {label_of('key_path')} of connection {settings.conn_id!r}."
    )


def read_failure(error: Exception, settings: ConnectionSettings) -> GeminiBatchError:
    """Say what an error of google-auth means."""
    from google.auth import exceptions

    which, advice = credential_name(settings), way_out(settings)
    detail = _without_secrets(_text_of(error))
    # 429 and 5xx of the token endpoint included: google-auth marks only some of them as retryable.
    if isinstance(error, exceptions.TransportError) or getattr(error, "retryable", False) or _is_server_trouble(error):
        # Nothing went to the API itself, so the call it was for certainly did not happen.
        return TransportError(f"{which} could not get an access token for now: {detail}", sent=False)
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if isinstance(error, exceptions.DefaultCredentialsError) and not settings.has_credential_fields:
        if named:
            return AuthError(
                f"The application default credentials in {named} (GOOGLE_APPLICATION_CREDENTIALS) cannot be used: "
                f"{detail} Correct the variable where the task runs, or unset it.",
                status=401,
            )
        return AuthError(f"There are no application default credentials on this machine. {advice}", status=401)
    if isinstance(error, exceptions.RefreshError | exceptions.OAuthError | exceptions.DefaultCredentialsError):
        return AuthError(f"{which} got no access token: {detail} {advice}", status=401, reason="UNAUTHENTICATED")
    if isinstance(error, ValueError | TypeError | KeyError | OSError | exceptions.GoogleAuthError):
        # Not the text: a parser's message may quote what it could not parse.
        return ConfigurationError(f"{which} cannot be used ({type(error).__name__}). {advice}")
    return AuthError(f"{which} got no access token: {type(error).__name__}. {advice}", status=401)


def _is_server_trouble(error: Exception) -> bool:
    """Return whether the reply that google-auth put into its error is of the endpoint's own trouble: 429 or 5xx."""
    for argument in error.args[1:]:
        try:
            reply = json.loads(argument) if isinstance(argument, str) else argument
            code = int(reply["error"]["code"])
        except (ValueError, TypeError, KeyError):
            continue
        return code == 429 or code >= 500
    return False


def _text_of(error: Exception) -> str:
    # Where nobody could be reached, google-auth hands on what its HTTP library says.
    words = [str(argument) for argument in error.args if isinstance(argument, str | OSError)]
    return " ".join(words[:2] or [type(error).__name__])


def _without_secrets(text: str) -> str:
    """Cut what looks like a token, an assertion or a key out of a text, and the text to a readable length."""
    text = re.sub(r"-----BEGIN.*?(-----END[^-]*-----|$)", "***", text, flags=re.DOTALL)
    # Access tokens of Google's begin with ya29., JSON web tokens with eyJ, which is `{"` in base64.
    text = re.sub(r"\b(ya29\.|eyJ)[\w.~+/=-]+", "***", text)
    text = re.sub(r"(?i)((?:assertion|token|secret|password|key)[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]{12,}", r"\1***", text)
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + "..."
