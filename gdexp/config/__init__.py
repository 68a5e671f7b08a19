"""From words on a command line to a config that is known to be sound.

`sources` says where YAML files are found, `compose` turns overrides into jobs, `check` refuses
what can't be trained, `targets` builds the object that a `_target_` names, `written` says how a
config stands in the record. Nothing here knows data, training or tracking.
"""
