"""Where Piccolo finds our engine and tables (`PICCOLO_CONF`)."""

from piccolo.conf.apps import AppRegistry

from portal.db.engine import get_engine

DB = get_engine()
APP_REGISTRY = AppRegistry(apps=["portal.piccolo_app"])
