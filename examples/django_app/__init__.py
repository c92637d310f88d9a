"""The example on Django: a project with one application.

python -m django_app.manage migrate
gunicorn --workers 2 django_app.wsgi:application
"""
