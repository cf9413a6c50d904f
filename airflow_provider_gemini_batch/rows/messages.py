# SPDX-License-Identifier: Apache-2.0
"""The members of a request, message by message: what the service calls them and what they hold."""

# One table serves four questions: which names are the service's own at a place (and may be spelt in snake_case), where
# the caller's own words begin, where a list is meant, and which member of a schema nobody knows.
#
# The notation of a member's value:
#
#     ""            a plain value, or a list of them
#     "Content"     a message of this table
#     "Content[]"   a list of them
#     "{}Schema"    a map: the caller chooses the names, each value is a message
#     "own"         the caller's data, names and all
#
# Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/api/caching#Schema,
# https://ai.google.dev/api/embeddings and the discovery document of `aiplatform.googleapis.com` v1. A newer service may
# know more: a name that is not here is passed on as it is written.

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGES: Mapping[str, Mapping[str, str]] = {
    "GenerateContentRequest": {
        "contents": "Content[]",
        "systemInstruction": "Content",
        "generationConfig": "GenerationConfig",
        "safetySettings": "SafetySetting[]",
        "tools": "Tool[]",
        "toolConfig": "ToolConfig",
        "cachedContent": "",
        "labels": "own",
        "model": "",
        "modelArmorConfig": "ModelArmorConfig",
        "serviceTier": "",
    },
    "EmbedContentRequest": {
        "content": "Content",
        "taskType": "",
        "title": "",
        "outputDimensionality": "",
        "embedContentConfig": "EmbedContentConfig",
        "model": "",
    },
    "EmbedContentConfig": dict.fromkeys(
        ("taskType", "title", "outputDimensionality", "autoTruncate", "documentOcr", "audioTrackExtraction"), ""
    ),
    "Content": {"parts": "Part[]", "role": ""},
    "Part": {
        "text": "",
        "inlineData": "Blob",
        "fileData": "FileData",
        "functionCall": "FunctionCall",
        "functionResponse": "FunctionResponse",
        "executableCode": "ExecutableCode",
        "codeExecutionResult": "CodeExecutionResult",
        "videoMetadata": "VideoMetadata",
        "mediaResolution": "MediaResolution",
        "thought": "",
        "thoughtSignature": "",
        "partMetadata": "own",
    },
    "Blob": {"mimeType": "", "data": "", "displayName": ""},
    "FileData": {"mimeType": "", "fileUri": "", "displayName": ""},
    "FunctionCall": {"id": "", "name": "", "args": "own", "partialArgs": "own", "willContinue": ""},
    "FunctionResponse": {
        "id": "",
        "name": "",
        "response": "own",
        "parts": "Part[]",
        "scheduling": "",
        "willContinue": "",
    },
    "ExecutableCode": {"id": "", "language": "", "code": ""},
    "CodeExecutionResult": {"id": "", "outcome": "", "output": ""},
    "VideoMetadata": {"startOffset": "", "endOffset": "", "fps": ""},
    "MediaResolution": {"level": "", "numTokens": ""},
    "GenerationConfig": {
        "temperature": "",
        "topP": "",
        "topK": "",
        "candidateCount": "",
        "maxOutputTokens": "",
        "stopSequences": "",
        "responseMimeType": "",
        "responseSchema": "Schema",
        "responseJsonSchema": "own",
        "presencePenalty": "",
        "frequencyPenalty": "",
        "seed": "",
        "responseLogprobs": "",
        "logprobs": "",
        "thinkingConfig": "ThinkingConfig",
        "responseModalities": "",
        "speechConfig": "SpeechConfig",
        "mediaResolution": "",
        "audioTimestamp": "",
        "routingConfig": "RoutingConfig",
        "modelConfig": "ModelConfig",
        "imageConfig": "ImageConfig",
        "enableEnhancedCivicAnswers": "",
        "enableAffectiveDialog": "",
    },
    "ThinkingConfig": {"includeThoughts": "", "thinkingBudget": "", "thinkingLevel": ""},
    "SpeechConfig": {
        "voiceConfig": "VoiceConfig",
        "multiSpeakerVoiceConfig": "MultiSpeakerVoiceConfig",
        "languageCode": "",
    },
    "VoiceConfig": {"prebuiltVoiceConfig": "PrebuiltVoiceConfig", "replicatedVoiceConfig": "ReplicatedVoiceConfig"},
    "PrebuiltVoiceConfig": {"voiceName": ""},
    "ReplicatedVoiceConfig": {"mimeType": "", "voiceSampleAudio": ""},
    "MultiSpeakerVoiceConfig": {"speakerVoiceConfigs": "SpeakerVoiceConfig[]"},
    "SpeakerVoiceConfig": {"speaker": "", "voiceConfig": "VoiceConfig"},
    "ImageConfig": {
        "aspectRatio": "",
        "imageSize": "",
        "personGeneration": "",
        "outputMimeType": "",
        "outputCompressionQuality": "",
        "imageOutputOptions": "ImageOutputOptions",
    },
    "ImageOutputOptions": {"mimeType": "", "compressionQuality": ""},
    "RoutingConfig": {"autoMode": "AutoMode", "manualMode": "ManualMode"},
    "AutoMode": {"modelRoutingPreference": ""},
    "ManualMode": {"modelName": ""},
    "ModelConfig": {"featureSelectionPreference": ""},
    "ModelArmorConfig": {"promptTemplateName": "", "responseTemplateName": ""},
    "SafetySetting": {"category": "", "threshold": "", "method": ""},
    "Tool": {
        "functionDeclarations": "FunctionDeclaration[]",
        "googleSearch": "GoogleSearch",
        "googleSearchRetrieval": "GoogleSearchRetrieval",
        "codeExecution": "Empty",
        "urlContext": "Empty",
        "enterpriseWebSearch": "GoogleSearch",
        "googleMaps": "GoogleMaps",
        "retrieval": "Retrieval",
        "computerUse": "ComputerUse",
        "fileSearch": "FileSearch",
        "mcpServers": "McpServer[]",
    },
    "Empty": {},
    "FunctionDeclaration": {
        "name": "",
        "description": "",
        "parameters": "Schema",
        "parametersJsonSchema": "own",
        "response": "Schema",
        "responseJsonSchema": "own",
        "behavior": "",
    },
    "GoogleSearch": {
        "timeRangeFilter": "Interval",
        "searchTypes": "own",
        "excludeDomains": "",
        "blockingConfidence": "",
    },
    "Interval": {"startTime": "", "endTime": ""},
    "GoogleSearchRetrieval": {"dynamicRetrievalConfig": "DynamicRetrievalConfig"},
    "DynamicRetrievalConfig": {"mode": "", "dynamicThreshold": ""},
    "GoogleMaps": {"enableWidget": "", "authConfig": "own"},
    "Retrieval": {
        "disableAttribution": "",
        "vertexAiSearch": "VertexAiSearch",
        "vertexRagStore": "VertexRagStore",
        "externalApi": "own",
    },
    "VertexAiSearch": {
        "datastore": "",
        "engine": "",
        "filter": "",
        "maxResults": "",
        "dataStoreSpecs": "DataStoreSpec[]",
    },
    "DataStoreSpec": {"dataStore": "", "filter": ""},
    "VertexRagStore": {
        "ragCorpora": "",
        "ragResources": "RagResource[]",
        "ragRetrievalConfig": "RagRetrievalConfig",
        "similarityTopK": "",
        "vectorDistanceThreshold": "",
        "storeContext": "",
    },
    "RagResource": {"ragCorpus": "", "ragFileIds": ""},
    "RagRetrievalConfig": {"topK": "", "filter": "RagFilter", "hybridSearch": "HybridSearch", "ranking": "Ranking"},
    "RagFilter": {"metadataFilter": "", "vectorDistanceThreshold": "", "vectorSimilarityThreshold": ""},
    "HybridSearch": {"alpha": ""},
    "Ranking": {"rankService": "ManualMode", "llmRanker": "ManualMode"},
    "ComputerUse": {"environment": "", "excludedPredefinedFunctions": ""},
    "FileSearch": {"fileSearchStoreNames": "", "metadataFilter": "", "topK": ""},
    "McpServer": {"name": "", "streamableHttpTransport": "HttpTransport"},
    "HttpTransport": {"url": "", "headers": "own", "timeout": "", "sseReadTimeout": "", "terminateOnClose": ""},
    "ToolConfig": {
        "functionCallingConfig": "FunctionCallingConfig",
        "retrievalConfig": "RetrievalConfig",
        "includeServerSideToolInvocations": "",
    },
    "FunctionCallingConfig": {"mode": "", "allowedFunctionNames": "", "streamFunctionCallArguments": ""},
    "RetrievalConfig": {"latLng": "LatLng", "languageCode": ""},
    "LatLng": {"latitude": "", "longitude": ""},
    "Schema": {
        "type": "",
        "format": "",
        "title": "",
        "description": "",
        "nullable": "",
        "default": "own",
        "example": "own",
        "enum": "",
        "items": "Schema",
        "minItems": "",
        "maxItems": "",
        "properties": "{}Schema",
        "propertyOrdering": "",
        "required": "",
        "minProperties": "",
        "maxProperties": "",
        "minimum": "",
        "maximum": "",
        "minLength": "",
        "maxLength": "",
        "pattern": "",
        "anyOf": "Schema[]",
        "additionalProperties": "Schema",
        "ref": "",
        "defs": "{}Schema",
        # Of JSON Schema, as Pydantic makes them. The names below are the caller's, and "$ref" points to them.
        "$ref": "",
        "$defs": "{}Schema",
        "definitions": "{}Schema",
        "allOf": "Schema[]",
        "oneOf": "Schema[]",
        "prefixItems": "Schema[]",
        "const": "own",
        "examples": "own",
    },
}

JSON_SCHEMA_ONLY = frozenset({"$ref", "$defs", "definitions", "allOf", "oneOf", "prefixItems", "const", "examples"})
"""Members that a request may hold in a ``responseJsonSchema``, while a ``Schema`` of the service does not know them."""

GENERATION_MEMBERS = frozenset(MESSAGES["GenerationConfig"])
GENERATE_MEMBERS = frozenset(MESSAGES["GenerateContentRequest"]) - {"serviceTier"}
EMBED_MEMBERS = frozenset(MESSAGES["EmbedContentRequest"])

_SNAKE = re.compile(r"(?<=[a-z0-9A-Z])_([a-z0-9])")


def camel(name: str) -> str:
    """Return ``max_output_tokens`` as ``maxOutputTokens``."""
    return _SNAKE.sub(lambda match: match[1].upper(), name) if "_" in name else name


def snake(name: str) -> str:
    """Return ``maxOutputTokens`` as ``max_output_tokens``."""
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)
