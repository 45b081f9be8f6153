"""All tables of the portal, in one Piccolo app with one line of migrations."""

from piccolo.conf.apps import AppConfig, table_finder

from portal.settings import ROOT

FEATURES = ("accounts", "audit", "notify", "chain", "signals", "actions", "transactions", "rules")

APP_CONFIG = AppConfig(
    app_name="portal",
    migrations_folder_path=str(ROOT / "piccolo_migrations"),
    # A module that imports another's table would list it twice.
    table_classes=list(dict.fromkeys(table_finder([f"portal.{feature}.tables" for feature in FEATURES]))),
)
